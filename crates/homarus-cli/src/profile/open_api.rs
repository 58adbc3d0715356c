//! Routes of an OpenAPI document: version 2 as Linkerd reads it, and version 3, whose base path is that of its first server.

use serde_json::{Map, Value, json};

use super::path_regex;
use crate::failure::Failure;

/// The methods, in the order of the routes of a path.
const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];
/// The most routes of a profile: more than an object in a cluster can hold.
const MAX_ROUTES: usize = 10_000;

/// A route for each operation, sorted by path.
pub(super) fn routes(text: &str) -> Result<Vec<Value>, Failure> {
    // JSON is YAML.
    let document: Value =
        serde_yaml_ng::from_str(text).map_err(|error| Failure::new(format!("the OpenAPI document can't be read: {error}")))?;
    let Some(paths) = document["paths"].as_object() else {
        return Err(Failure::new("the OpenAPI document has no paths").remedy("Is it an OpenAPI (Swagger) document at all?"));
    };
    let base = base_path(&document);
    let mut sorted: Vec<_> = paths.iter().collect();
    sorted.sort_by_key(|(path, _)| path.as_str());
    let mut routes = Vec::new();
    for (path, item) in sorted {
        let path = joined(&base, path);
        let operations = METHODS.iter().filter_map(|method| Some((method, item.get(*method)?.as_object()?)));
        for (method, operation) in operations {
            routes.push(route(&method.to_ascii_uppercase(), &path, operation)?);
        }
    }
    if routes.len() > MAX_ROUTES {
        return Err(Failure::new(format!("the OpenAPI document has more than {MAX_ROUTES} operations")));
    }
    Ok(routes)
}

/// What all paths begin with.
fn base_path(document: &Value) -> String {
    if let Some(base) = document["basePath"].as_str() {
        return base.to_owned();
    }
    let url = document["servers"][0]["url"].as_str().unwrap_or_default();
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or_else(String::new, |slash| rest[slash..].to_owned()),
        None => url.to_owned(),
    }
}

/// Two paths in a row, with single slashes and none at the end.
fn joined(base: &str, path: &str) -> String {
    let segments = base.split('/').chain(path.split('/')).filter(|segment| !segment.is_empty());
    format!("/{}", segments.collect::<Vec<_>>().join("/"))
}

fn route(method: &str, path: &str, operation: &Map<String, Value>) -> Result<Value, Failure> {
    let name = format!("{method} {path}");
    let mut route = json!({ "name": name, "condition": { "method": method, "pathRegex": path_regex(path) } });
    let classes = response_classes(operation.get("responses"));
    if !classes.is_empty() {
        route["responseClasses"] = classes.into();
    }
    match operation.get("x-linkerd-retryable") {
        Some(Value::Bool(true)) => route["isRetryable"] = true.into(),
        None | Some(Value::Bool(false) | Value::Null) => {}
        Some(other) => return Err(Failure::new(format!("{name}: x-linkerd-retryable must be true or false, not {other}"))),
    }
    if let Some(timeout) = operation.get("x-linkerd-timeout") {
        let text = timeout.as_str().filter(|text| homarus_model::duration::parse_go(text).is_ok());
        let unreadable = || Failure::new(format!("{name}: x-linkerd-timeout must be a duration such as 250ms, not {timeout}"));
        route["timeout"] = text.ok_or_else(unreadable)?.into();
    }
    Ok(route)
}

/// One for each status that is named by its number.
fn response_classes(responses: Option<&Value>) -> Vec<Value> {
    let responses = responses.and_then(Value::as_object);
    let mut codes: Vec<u16> = responses.into_iter().flatten().filter_map(|(code, _)| code.parse().ok()).collect();
    codes.sort_unstable();
    let class = |code: &u16| {
        let mut class = json!({ "condition": { "status": { "min": code, "max": code } } });
        if *code >= 500 {
            class["isFailure"] = true.into();
        }
        class
    };
    codes.iter().map(class).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SWAGGER: &str = r#"
swagger: "2.0"
basePath: /v1/
paths:
  /books/{id}.json:
    parameters: []
    put:
      x-linkerd-timeout: 1s500ms
      responses: {200: {}, default: {}, "503": {}}
    get:
      x-linkerd-retryable: true
  /authors/:
    get:
      responses: {}
"#;

    #[test]
    fn a_route_for_each_operation() {
        let routes = routes(SWAGGER).unwrap();
        let class = |code: u16| json!({ "condition": { "status": { "min": code, "max": code } } });
        let failure = json!({ "condition": { "status": { "min": 503, "max": 503 } }, "isFailure": true });
        assert_eq!(
            Value::from(routes),
            json!([
                { "name": "GET /v1/authors", "condition": { "method": "GET", "pathRegex": "/v1/authors" } },
                {
                    "name": "GET /v1/books/{id}.json",
                    "condition": { "method": "GET", "pathRegex": r"/v1/books/[^/]*\.json" },
                    "isRetryable": true,
                },
                {
                    "name": "PUT /v1/books/{id}.json",
                    "condition": { "method": "PUT", "pathRegex": r"/v1/books/[^/]*\.json" },
                    "responseClasses": [class(200), failure],
                    "timeout": "1s500ms",
                },
            ])
        );
    }

    #[test]
    fn json_and_version_three() {
        let names =
            |text: &str| routes(text).unwrap().iter().map(|route| route["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let document = |servers: &str| format!(r#"{{"openapi":"3.1.0","servers":[{servers}],"paths":{{"/a":{{"post":{{}}}}}}}}"#);
        assert_eq!(names(&document(r#"{"url":"https://example.org/api"}"#)), ["POST /api/a"]);
        assert_eq!(names(&document(r#"{"url":"/api"}"#)), ["POST /api/a"]);
        assert_eq!(names(&document(r#"{"url":"https://example.org"}"#)), ["POST /a"]);
        assert_eq!(names(&document("")), ["POST /a"]);
    }

    #[test]
    fn nonsense_is_named() {
        let said = |text: &str| routes(text).unwrap_err().to_string();
        assert!(said("a: [").starts_with("the OpenAPI document can't be read"));
        assert!(said("a: 1").starts_with("the OpenAPI document has no paths"));
        assert!(said("paths: {/a: {get: {x-linkerd-timeout: soon}}}").contains("GET /a: x-linkerd-timeout"));
        assert!(said("paths: {/a: {get: {x-linkerd-retryable: 'yes'}}}").contains("x-linkerd-retryable"));
    }
}
