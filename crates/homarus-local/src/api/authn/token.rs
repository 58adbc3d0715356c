//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256, with the claims that Kubernetes puts in.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longer tokens aren't ours.
const MAX_TOKEN: usize = 16 * 1024;

/// What a token claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    pub aud: Vec<String>,
    /// Until when, in seconds since 1970.
    pub exp: i64,
    /// Since when.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not valid before.
    pub nbf: i64,
    /// Whom it names.
    pub sub: String,
}

/// The objects whose life a token shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of all of them.
    pub namespace: String,
    /// The pod's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// The secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The service account.
    pub serviceaccount: Ref,
}

/// An object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// Why a token isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, or not one of ours.
    #[error("invalid bearer token")]
    Invalid,
    /// Its time is over, or hasn't come.
    #[error("token has expired or is not valid yet")]
    OutOfTime,
}

/// Signs and verifies.
#[derive(Debug)]
pub struct Tokens {
    key: EcdsaKeyPair,
    issuer: String,
    key_id: String,
}

impl Tokens {
    /// With a PKCS 8 P-256 key.
    pub fn new(key: &[u8], issuer: String) -> Result<Tokens, String> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).map_err(|e| e.to_string())?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key().as_ref());
        let key_id = BASE64.encode(digest.as_ref());
        Ok(Tokens { key, issuer, key_id })
    }

    /// Who signs, which is also the API's own audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A signed token.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.key_id, "typ": "JWT"});
        let payload = serde_json::to_vec(claims).ok()?;
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(payload));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64.encode(signature.as_ref())))
    }

    /// The claims of a token that we signed and whose time is now.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let claims = self.verified(token).ok_or(TokenError::Invalid)?;
        if claims.nbf > now || claims.exp <= now { Err(TokenError::OutOfTime) } else { Ok(claims) }
    }

    fn verified(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        let signature = BASE64.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()?;
        (claims.iss == self.issuer).then_some(claims)
    }

    /// The public key set, for those who verify tokens without us.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
        json!({"keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id, "x": x, "y": y}]})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tokens() -> Tokens {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Tokens::new(&key.serialize_der(), "https://issuer".into()).unwrap()
    }

    fn claims() -> Claims {
        let serviceaccount = Ref { name: "web".into(), uid: "1".into() };
        let bound = Bound { namespace: "ns".into(), node: None, pod: None, secret: None, serviceaccount };
        let (aud, iss) = (vec!["a".into()], "https://issuer".into());
        Claims { aud, exp: 200, iat: 100, iss, jti: "j".into(), bound, nbf: 100, sub: "s".into() }
    }

    #[test]
    fn a_token_is_valid_in_its_time_only() {
        let tokens = tokens();
        let token = tokens.sign(&claims()).unwrap();
        assert_eq!(tokens.verify(&token, 150), Ok(claims()));
        assert_eq!(tokens.verify(&token, 200), Err(TokenError::OutOfTime));
        assert_eq!(tokens.verify(&token, 99), Err(TokenError::OutOfTime));
    }

    #[test]
    fn others_and_changed_tokens_are_refused() {
        let (ours, theirs) = (tokens(), tokens());
        let token = theirs.sign(&claims()).unwrap();
        assert_eq!(ours.verify(&token, 150), Err(TokenError::Invalid));
        let token = ours.sign(&claims()).unwrap();
        let mut parts: Vec<&str> = token.split('.').collect();
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        parts[0] = &none;
        assert_eq!(ours.verify(&parts.join("."), 150), Err(TokenError::Invalid));
        assert_eq!(ours.verify("", 150), Err(TokenError::Invalid));
        assert_eq!(ours.verify("a.b.c", 150), Err(TokenError::Invalid));
    }
}
