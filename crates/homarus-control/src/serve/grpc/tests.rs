//! Requests are whatever a client sends.
#![allow(clippy::unwrap_used)]

use super::{exchange::brief, *};
use crate::{
    index::Settings,
    serve::{Hub, destination::Destination, policy::Policies},
};
use homarus_wire::api::{destination::GetDestination, inbound::PortSpec};
use proptest::prelude::*;

fn request(path: &str) -> GetDestination {
    GetDestination { path: path.into(), context_token: "{\"ns\":\"shop\"}".into(), ..Default::default() }
}

#[test]
fn what_is_framed_is_read() {
    let framed = frame(&request("web.shop.svc.cluster.local:80"));
    assert_eq!(read::<GetDestination>(unframe(framed.clone()).unwrap()).unwrap(), request("web.shop.svc.cluster.local:80"));
    let code = |request: &[u8]| unframe(Bytes::copy_from_slice(request)).unwrap_err().code();
    for cut in 0..framed.len() {
        assert_eq!(code(&framed[..cut]), Code::Internal, "{cut}");
    }
    assert_eq!(code(&[&framed[..], b"x"].concat()), Code::Internal);
    assert_eq!(code(&[1, 0, 0, 0, 0]), Code::Unimplemented, "compressed");
    assert_eq!(unframe(frame(&GetDestination::default())).unwrap(), Bytes::new());
}

#[test]
fn a_reason_is_brief_and_whole_characters() {
    assert_eq!(brief("no such service"), "no such service");
    assert_eq!(brief(&"a".repeat(512)), "a".repeat(512));
    assert_eq!(brief(&"a".repeat(513)), "a".repeat(512) + "…");
    assert_eq!(brief(&"ü€".repeat(10_000)), "ü€".repeat(102) + "ü…");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_message_or_refused(request in proptest::collection::vec(any::<u8>(), 0..64)) {
        match unframe(Bytes::from(request.clone())) {
            Ok(message) => prop_assert_eq!(&message[..], &request[PREFIX_BYTES..]),
            Err(status) => prop_assert!(!status.message().is_empty()),
        }
        if let Err(status) = read::<GetDestination>(Bytes::from(request)) {
            prop_assert_eq!(status.code(), Code::InvalidArgument);
        }
    }

    /// Every method of both controllers, asked by whatever bytes and names.
    #[test]
    fn any_message_is_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..48),
        text in "\\PC{0,30}|[a-z0-9.:\\[\\]]{0,40}|\\{\"ns\":\"[a-z]{0,3}\",\"pod\":\"[a-z]{0,3}\"\\}",
        port: u32,
    ) {
        let hub = Hub::new(Settings::default());
        let (destination, policies) = (Destination::new(hub.clone()), Policies::new(hub));
        let methods = [
            (&destination as &dyn Service, "/io.linkerd.proxy.destination.Destination/Get"),
            (&destination, "/io.linkerd.proxy.destination.Destination/GetProfile"),
            (&policies, "/io.linkerd.proxy.inbound.InboundServerPolicies/WatchPort"),
            (&policies, "/io.linkerd.proxy.inbound.InboundServerPolicies/GetPort"),
            (&policies, "/io.linkerd.proxy.outbound.OutboundPolicies/Watch"),
        ];
        let messages = [
            Bytes::from(bytes),
            request(&text).encode_to_vec().into(),
            PortSpec { workload: text.clone(), port }.encode_to_vec().into(),
        ];
        for ((service, path), message) in methods.into_iter().flat_map(|method| messages.iter().map(move |m| (method, m))) {
            // An empty cluster has nothing to grant; a profile of an unknown address is all that can be told.
            match service.call(service.method(path).unwrap(), message.clone()) {
                Ok(_) => prop_assert!(path.ends_with("GetProfile"), "{}", path),
                Err(status) => prop_assert!(
                    matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition),
                    "{}: {}", path, status
                ),
            }
        }
    }
}
