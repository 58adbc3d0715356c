#![allow(clippy::unwrap_used)]
use super::*;
use http::HeaderValue;

fn http(path: PathMatch) -> HttpMatch {
    HttpMatch { path: Some(path), ..HttpMatch::default() }
}

fn route(hosts: &[&str], matches: Vec<HttpMatch>, policy: &'static str) -> HttpRoute<&'static str> {
    Route { hosts: hosts.iter().map(|h| HostMatch::parse(h)).collect(), rules: vec![Rule { matches, policy }] }
}

/// Which policy wins for `GET host path?query` with one header `x: <value>`.
fn check(routes: &[HttpRoute<&'static str>], host: &str, target: &str, header: Option<&str>, wins: Option<&str>) {
    let mut headers = HeaderMap::new();
    if let Some(value) = header {
        headers.insert("x", HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let head = RequestHead { method: &Method::GET, host: (!host.is_empty()).then_some(host), path, query, headers: &headers };
    assert_eq!(find(routes, &head).copied(), wins, "{host} {target} {header:?}");
}

#[test]
fn hosts_rank_before_everything() {
    let routes = [
        route(&[], vec![http(PathMatch::Exact("/long/path".into()))], "any"),
        route(&["*.example.org"], vec![], "suffix"),
        route(&["*.a.example.org"], vec![], "longer suffix"),
        route(&["www.Example.org."], vec![], "exact"),
    ];
    check(&routes, "www.example.ORG", "/long/path", None, Some("exact"));
    check(&routes, "x.example.org.", "/long/path", None, Some("suffix"));
    check(&routes, "b.a.example.org", "/", None, Some("longer suffix"));
    check(&routes, "example.org", "/long/path", None, Some("any"));
    check(&routes, "", "/long/path", None, Some("any"));
    check(&routes, "example.org", "/", None, None);
}

#[test]
fn paths_rank_by_length_only() {
    let routes = [
        route(&[], vec![http(PathMatch::Prefix("/".into()))], "all"),
        route(&[], vec![http(PathMatch::Prefix("/api/".into()))], "api"),
        route(&[], vec![http(PathMatch::Exact("/api/v1".into()))], "exact"),
        route(&[], vec![http(PathMatch::Regex(WholeRegex::new("/api/v[0-9]|/api/v[0-9]/x").unwrap()))], "regex"),
    ];
    check(&routes, "h", "/", None, Some("all"));
    check(&routes, "h", "/apis", None, Some("all"));
    check(&routes, "h", "/api", None, Some("api"));
    check(&routes, "h", "/api/", None, Some("api"));
    check(&routes, "h", "/api/v1", None, Some("exact"));
    check(&routes, "h", "/api/v2", None, Some("regex"));
    check(&routes, "h", "/api/v2/x", None, Some("regex"));
    check(&routes, "h", "/api/v2/y", None, Some("api"));
}

#[test]
fn headers_queries_and_order_break_ties() {
    let header = HttpMatch {
        headers: vec![HeaderMatch { name: "x".parse().unwrap(), value: Pattern::Exact(HeaderValue::from_static("1")) }],
        ..HttpMatch::default()
    };
    let query =
        HttpMatch { query: vec![QueryMatch { name: "a b".into(), value: Pattern::Exact("ü".into()) }], ..HttpMatch::default() };
    let method = HttpMatch { method: Some(Method::GET), ..HttpMatch::default() };
    let post = HttpMatch { method: Some(Method::POST), path: Some(PathMatch::Exact("/".into())), ..HttpMatch::default() };
    let routes = [
        route(&[], vec![post], "post"),
        route(&[], vec![method.clone()], "method"),
        route(&[], vec![method], "method again"),
        route(&[], vec![query], "query"),
        route(&[], vec![header], "header"),
    ];
    check(&routes, "h", "/?a+b=%C3%BC", Some("1"), Some("header"));
    check(&routes, "h", "/?a+b=%C3%BC", Some("2"), Some("query"));
    check(&routes, "h", "/?a+b=%zz", None, Some("method"));
}

#[test]
fn grpc_needs_post_and_a_full_path() {
    let by = |service: Option<&str>, method: Option<&str>| GrpcMatch {
        service: service.map(Into::into),
        method: method.map(Into::into),
        headers: vec![],
    };
    let routes = [
        Route { hosts: vec![], rules: vec![Rule { matches: vec![by(None, None)], policy: "any" }] },
        Route { hosts: vec![], rules: vec![Rule { matches: vec![by(Some("a.B"), None)], policy: "service" }] },
        Route { hosts: vec![], rules: vec![Rule { matches: vec![by(Some("a.B"), Some("C"))], policy: "method" }] },
    ];
    let headers = HeaderMap::new();
    for (method, path, wins) in [
        (Method::POST, "/a.B/C", Some("method")),
        (Method::POST, "/a.B/D", Some("service")),
        (Method::POST, "/x.Y/C", Some("any")),
        (Method::POST, "/a.B", None),
        (Method::GET, "/a.B/C", None),
    ] {
        let head = RequestHead { method: &method, host: None, path, query: None, headers: &headers };
        assert_eq!(find(&routes, &head).copied(), wins, "{path}");
    }
}
