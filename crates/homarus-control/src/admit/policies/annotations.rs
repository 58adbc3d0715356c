//! Timeouts and retries in annotations of routes (control-plane §6.5): an annotation that can't be read would keep the whole
//! route from having an effect.

use std::collections::BTreeMap;

use serde_json::Value;

const DURATIONS: [&str; 4] =
    ["timeout.linkerd.io/request", "timeout.linkerd.io/response", "timeout.linkerd.io/idle", "retry.linkerd.io/timeout"];
const LIMIT: &str = "retry.linkerd.io/limit";
const HTTP: &str = "retry.linkerd.io/http";
const GRPC: &str = "retry.linkerd.io/grpc";
const CODES: [&str; 5] = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

/// Whether all of them can be read.
pub(super) fn fit(metadata: &Value) -> Result<(), String> {
    let map = metadata["annotations"].as_object().into_iter().flatten();
    let texts: BTreeMap<&str, &str> = map.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    let check = |name: &str, fits: fn(&str) -> bool, remedy: &str| match texts.get(name) {
        Some(text) if !fits(text) => Err(format!("annotation {name}: {text:?} can't be read; {remedy}")),
        _ => Ok(()),
    };
    for name in DURATIONS {
        check(name, duration, "write a whole number and a unit, like 300ms, 5s or 1m")?;
    }
    check(LIMIT, |text| text.parse::<u16>().is_ok(), "write a number up to 65535")?;
    check(HTTP, |text| text.split(',').all(statuses), "write statuses with commas between, like 5xx,429 or 500-504")?;
    check(GRPC, |text| text.split(',').all(|code| CODES.contains(&code)), &format!("use {} with commas between", CODES.join(", ")))
}

/// A whole number with a unit, or 0.
fn duration(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let whole = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()) && number.parse::<u64>().is_ok();
    whole && (matches!(unit, "ms" | "s" | "m" | "h" | "d") || text == "0")
}

fn statuses(text: &str) -> bool {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| (100..600).contains(status) && text.len() == 3);
    match text.split_once('-') {
        _ if matches!(text, "5xx" | "gateway-error") => true,
        Some((low, high)) => status(low).zip(status(high)).is_some_and(|(low, high)| low <= high),
        None => status(text).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn annotations_of_routes() {
        for (name, good, bad) in [
            ("timeout.linkerd.io/request", ["0", "10s", "300ms", "1d"], ["-1s", "1.5s", "1m30s", "soon"]),
            (LIMIT, ["0", "1", "65535", "7"], ["", "-1", "65536", "many"]),
            (HTTP, ["5xx", "gateway-error", "404,500-504", "100-599"], ["", "5xx, 429", "99", "504-500"]),
            (GRPC, ["cancelled", "internal,unavailable", "deadline-exceeded", "resource-exhausted"], ["", "ok", "a,b", "13"]),
        ] {
            for text in good {
                assert_eq!(fit(&json!({ "annotations": { name: text } })), Ok(()), "{name}: {text}");
            }
            for text in bad {
                let reason = fit(&json!({ "annotations": { name: text } }));
                assert!(reason.is_err_and(|reason| reason.contains(name)), "{name}: {text}");
            }
        }
        assert_eq!(fit(&json!({})), Ok(()));
    }
}
