//! Routes of the services that a protobuf definition has.

use prost_types::MethodDescriptorProto;
use protox_parse::parse;
use serde_json::{Value, json};

use super::path_regex;
use crate::failure::Failure;

/// A route for each method, in the order of the file. Imports are not followed: methods are named where they are.
pub(super) fn routes(text: &str) -> Result<Vec<Value>, Failure> {
    let file = parse("service.proto", text)
        .map_err(|error| Failure::new(format!("the protobuf definition can't be read: {}", crate::failure::causes(&error))))?;
    let package = file.package().to_owned();
    let routes = file.service.iter().flat_map(|service| {
        let service_name = match package.as_str() {
            "" => service.name().to_owned(),
            package => format!("{package}.{}", service.name()),
        };
        service.method.iter().map(move |method| {
            let pattern = path_regex(&format!("/{service_name}/{}", method.name()));
            let mut route = json!({ "name": method.name(), "condition": { "method": "POST", "pathRegex": pattern } });
            if may_be_repeated(method) {
                route["isRetryable"] = true.into();
            }
            route
        })
    });
    let routes: Vec<_> = routes.collect();
    if routes.is_empty() { Err(Failure::new("the protobuf definition has no service with methods")) } else { Ok(routes) }
}

/// Whether a method says that a second call does no more than the first.
fn may_be_repeated(method: &MethodDescriptorProto) -> bool {
    let options = method.options.iter().flat_map(|options| &options.uninterpreted_option);
    let mut levels = options.filter(|option| option.name.len() == 1 && option.name[0].name_part == "idempotency_level");
    levels.any(|option| matches!(option.identifier_value(), "IDEMPOTENT" | "NO_SIDE_EFFECTS"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VOTING: &str = r#"
        syntax = "proto3"; // A comment; with service Fake { rpc X (A) returns (B); }
        package emojivoto.v1;
        import "elsewhere.proto";
        message VoteRequest { string a = 1; }
        service VotingService {
            rpc VoteDog (VoteRequest) returns (stream elsewhere.Response);
            rpc Results (VoteRequest) returns (VoteRequest) { option idempotency_level = NO_SIDE_EFFECTS; }
            rpc Set (VoteRequest) returns (VoteRequest) { option idempotency_level = IDEMPOTENT; option deprecated = true; }
            rpc Add (VoteRequest) returns (VoteRequest) { option idempotency_level = IDEMPOTENCY_UNKNOWN; }
        }
    "#;

    #[test]
    fn a_route_for_each_method() {
        let route = |name: &str| {
            let pattern = format!(r"/emojivoto\.v1\.VotingService/{name}");
            json!({ "name": name, "condition": { "method": "POST", "pathRegex": pattern } })
        };
        let retryable = |name: &str| {
            let mut route = route(name);
            route["isRetryable"] = true.into();
            route
        };
        assert_eq!(routes(VOTING).unwrap(), [route("VoteDog"), retryable("Results"), retryable("Set"), route("Add")]);
    }

    #[test]
    fn without_a_package_and_nonsense() {
        let bare = routes("service A { rpc B (C) returns (D); }").unwrap();
        assert_eq!(bare[0]["condition"]["pathRegex"], "/A/B");
        assert!(routes("service {").unwrap_err().to_string().starts_with("the protobuf definition can't be read"));
        assert!(routes("message A {}").unwrap_err().to_string().contains("no service"));
    }
}
