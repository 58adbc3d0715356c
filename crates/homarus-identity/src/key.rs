//! Private keys.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{AlgorithmIdentifier, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, alg_id};

use crate::pem;

/// The largest encoded key that is read: an RSA key of 8192 bits has 5 KiB.
pub const MAX_KEY_BYTES: usize = 16 * 1024;

/// Why a key can't be used. All but [`KeyError::Generate`] and [`KeyError::Sign`] are the fault of whoever supplied it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key in the PEM text.
    #[error("no private key found in the PEM text: {0}")]
    Pem(String),
    /// Too long.
    #[error("key of {0} bytes is longer than {MAX_KEY_BYTES}")]
    TooLong(usize),
    /// Not a key, or of a kind we can't use.
    #[error("unusable private key: {0}; use ECDSA P-256 (PKCS#8 or SEC 1), ECDSA P-384, or RSA from 2048 bits")]
    Unusable(String),
    /// The cryptographic library failed to make a key.
    #[error("failed to generate a key")]
    Generate,
    /// The cryptographic library failed to sign.
    #[error("failed to sign: {0}")]
    Sign(String),
}

/// The kinds of keys in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// What every workload has.
    EcdsaP256,
    /// Allowed for anchors and issuers.
    EcdsaP384,
    /// Allowed for anchors and issuers.
    Rsa,
}

impl Algorithm {
    fn scheme(self) -> SignatureScheme {
        match self {
            Self::EcdsaP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::EcdsaP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Self::Rsa => SignatureScheme::RSA_PKCS1_SHA256,
        }
    }

    /// How certificates name the signature of such a key.
    pub(crate) fn signature_id(self) -> AlgorithmIdentifier {
        match self {
            Self::EcdsaP256 => alg_id::ECDSA_SHA256,
            Self::EcdsaP384 => alg_id::ECDSA_SHA384,
            Self::Rsa => alg_id::RSA_PKCS1_SHA256,
        }
    }
}

/// A private key that signs requests, certificates and handshakes.
#[derive(Clone)]
pub struct Key {
    der: Arc<PrivateKeyDer<'static>>,
    signing: Arc<dyn SigningKey>,
    public: SubjectPublicKeyInfoDer<'static>,
    algorithm: Algorithm,
}

impl Key {
    /// A new ECDSA P-256 key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// A PKCS#8 key, DER.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_der(PrivatePkcs8KeyDer::from(der.to_vec()).into())
    }

    /// The first key of a PEM text: PKCS#8, SEC 1 or PKCS#1.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.len() > pem::MAX_PEM_BYTES {
            return Err(KeyError::TooLong(text.len()));
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| KeyError::Pem(format!("{error:?}")))?;
        Self::from_der(der)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        if der.secret_der().len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(der.secret_der().len()));
        }
        let signing = any_supported_type(&der).map_err(|error| KeyError::Unusable(error.to_string()))?;
        let algorithm = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Rsa]
            .into_iter()
            .find(|algorithm| signing.choose_scheme(&[algorithm.scheme()]).is_some())
            .ok_or_else(|| KeyError::Unusable("its algorithm is neither ECDSA P-256, ECDSA P-384 nor RSA".into()))?;
        let public = signing.public_key().ok_or_else(|| KeyError::Unusable("it has no public half".into()))?.into_owned();
        Ok(Self { der: Arc::new(der), signing, public, algorithm })
    }

    /// What kind of key it is.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half, as certificates carry it.
    pub fn public(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.public
    }

    /// The private half as DER, PKCS#8 if the key was generated here.
    pub fn secret_der(&self) -> &[u8] {
        self.der.secret_der()
    }

    /// The private half as PEM; PKCS#8 only.
    pub fn to_pem(&self) -> Option<String> {
        match &*self.der {
            PrivateKeyDer::Pkcs8(der) => Some(pem::private_key(der.secret_pkcs8_der())),
            _ => None,
        }
    }

    /// The key as rustls wants it.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.signing)
    }

    /// Signs by the algorithm's usual hash; the answer is encoded as certificates want it.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let scheme = self.algorithm.scheme();
        let signer = self.signing.choose_scheme(&[scheme]).ok_or_else(|| KeyError::Sign("scheme not supported".into()))?;
        signer.sign(message).map_err(|error| KeyError::Sign(error.to_string()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
