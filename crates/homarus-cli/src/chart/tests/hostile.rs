//! Whatever comes in, something bounded comes out.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::evaluated;
use crate::chart::values::{Overrides, Values};
use crate::chart::{to_yaml, yaml};

#[test]
fn recursion_and_loops_end() {
    let endless = "{{ define \"r\" }}{{ include \"r\" . }}{{ end }}{{ include \"r\" . }}";
    assert!(evaluated(endless).unwrap_err().to_string().contains("nested too deeply"));
    let template = "{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}";
    assert!(evaluated(template).unwrap_err().to_string().contains("nested too deeply"));
    let long = "{{ range until 100000 }}{{ range until 100000 }}{{ 1 }}{{ end }}{{ end }}";
    assert!(evaluated(long).unwrap_err().to_string().contains("steps"));
    let wide = "{{ $x := repeat 1000000 \"x\" }}{{ range until 1000 }}{{ $x }}{{ end }}";
    assert!(evaluated(wide).unwrap_err().to_string().contains("bytes of output"));
    for text in [
        "{{ repeat 999999 (repeat 999999 \"x\") }}",
        "{{ until 99999999 }}",
        "{{ printf \"%99999999d\" 1 }}",
        "{{ indent 999999 (repeat 999 \"\\n\") }}",
    ] {
        assert!(evaluated(text).is_err(), "{text}");
    }
}

#[test]
fn a_mapping_in_itself_ends() {
    let circle = |end: &str| evaluated(&format!("{{{{ $d := dict }}}}{{{{ $_ := set $d \"d\" $d }}}}{end}"));
    for end in ["{{ $d }}", "{{ toYaml $d }}", "{{ toJson $d }}", "{{ $x := deepCopy $d }}", "{{ merge $d $d }}"] {
        assert!(circle(end).is_err(), "{end}");
    }
    assert_eq!(circle("{{ deepEqual $d $d }}").unwrap(), "false");
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("{{ if 1 }}", "{{ end }}"), ("{{ with 1 }}", "{{ end }}"), ("{{ range 1 }}", "{{ end }}")] {
        assert!(evaluated(&(open.repeat(500) + &close.repeat(500))).is_err(), "{open}");
    }
    assert!(evaluated(&format!("{{{{ {}1{} }}}}", "(".repeat(500), ")".repeat(500))).is_err());
    assert!(yaml::documents(&"[".repeat(5000)).is_err());
    assert!(yaml::documents(&format!("a: {}1", "- ".repeat(500))).is_err());
    let bomb: String = (1..30).map(|n| format!("x{n}: &x{n} [*x{0}, *x{0}, *x{0}]\n", n - 1)).collect();
    assert!(yaml::documents(&format!("x0: &x0 [1]\n{bomb}")).unwrap_err().contains("values"));
}

/// Pieces of templates, as likely to fit as not.
fn template() -> impl Strategy<Value = String> {
    let words = [
        "{{", "}}", "{{-", "-}}", " ", "if", "else", "end", "range", "with", "define", "\"t\"", "include", ".", ".Values", "$",
        "$x", ":=", "=", "|", "(", ")", "1", "-", "1.5", "'a'", "`", "\"", "toYaml", "dict", "list", "printf", "%s", ",", "/*",
        "*/", "\n", "index", "nil", "ü",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "(?s).{0,24}".prop_map(Json::from),
        "[ a:#'\"\n\t-]{0,100}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-z0-9 :.\n]{0,8}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<Values>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_template_panics(text in template()) {
        let _ = evaluated(&text);
    }

    #[test]
    fn no_text_panics(text in "(?s).{0,64}") {
        let _ = evaluated(&text);
        let _ = evaluated(&format!("{{{{{text}}}}}"));
        let _ = yaml::documents(&text);
        let flag = |_: &str| Ok(String::new());
        for overrides in [
            Overrides { set: vec![text.clone()], ..Overrides::default() },
            Overrides { set_json: vec![text.clone()], ..Overrides::default() },
        ] {
            let _ = overrides.apply(Values::new(), &flag);
        }
    }

    #[test]
    fn no_flag_panics(text in "[ab=.,0-9{}\\[\\]\\\\\"]{0,24}") {
        let flag = |_: &str| Ok(String::new());
        let _ = Overrides { set: vec![text], ..Overrides::default() }.apply(Values::new(), &flag);
    }

    #[test]
    fn what_is_printed_means_the_same(value in json()) {
        let read = yaml::first(&to_yaml(&value).unwrap());
        prop_assert_eq!(yaml::as_helm_reads(read.unwrap()), yaml::as_helm_reads(value));
    }
}
