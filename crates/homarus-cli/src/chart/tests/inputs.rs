//! Values: files, flags, defaults, the schema.

use serde_json::{Value as Json, json};

use super::{chart, file};
use crate::chart::{Chart, ChartError, Overrides, Values, values};

fn read(name: &str) -> Result<String, String> {
    if name == "cert.pem" { Ok("PEM\n".to_owned()) } else { Err("no such file".to_owned()) }
}

fn set(texts: &[&str]) -> Result<Json, ChartError> {
    let set = texts.iter().map(|text| (*text).to_owned()).collect();
    Overrides { set, ..Overrides::default() }.apply(Values::new(), &read).map(Json::Object)
}

#[test]
fn flags_are_read_as_helm_reads_them() {
    for (text, wanted) in [
        ("a=1", json!({ "a": 1 })),
        ("a=1,b=x", json!({ "a": 1, "b": "x" })),
        ("a.b.c=true", json!({ "a": { "b": { "c": true } } })),
        (
            "a=TRUE,b=null,c=0,d=007,e=-3,f=1.5,g=1e3",
            json!({ "a": true, "b": null, "c": 0, "d": "007", "e": -3, "f": "1.5", "g": "1e3" }),
        ),
        ("a=", json!({ "a": "" })),
        ("a=x\\,y", json!({ "a": "x,y" })),
        ("a\\.b=1", json!({ "a.b": 1 })),
        ("a={x,2,true}", json!({ "a": ["x", 2, true] })),
        ("a={},b=1", json!({ "a": [""], "b": 1 })),
        ("a[1].b=x", json!({ "a": [null, { "b": "x" }] })),
        ("a[0]=x,a[1]=y", json!({ "a": ["x", "y"] })),
        ("a[0][1]=x", json!({ "a": [[null, "x"]] })),
        ("a[0].b=1,a[0].c=2", json!({ "a": [{ "b": 1, "c": 2 }] })),
        ("a=b=c", json!({ "a": "b=c" })),
        ("", json!({})),
    ] {
        assert_eq!(set(&[text]).unwrap(), wanted, "{text}");
    }
    assert_eq!(set(&["a.b=1", "a.c=2", "a.b=3"]).unwrap(), json!({ "a": { "b": 3, "c": 2 } }));
}

#[test]
fn flags_that_say_nothing_are_errors() {
    for text in
        ["a", "a,b=1", "a.b", "a[x]=1", "a[-1]=1", "a[0]x=1", "a[99999]=1", "a={x", "a=1,a.b=2", "a=1,a[0]=2", "a[0", "a.=1"]
    {
        let error = set(&[text]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("--set {text}: ")), "{error}");
    }
    let deep = ["a"; 40].join(".") + "=1";
    assert!(set(&[&deep]).is_err());
}

#[test]
fn each_kind_of_flag_has_its_own_way() {
    let one = |text: &str| vec![text.to_owned()];
    let flags = Overrides {
        files: vec![("f".to_owned(), "a: {x: 1, z: 2}\nb: [1]".to_owned()), ("g".to_owned(), "a: {z: null}\nb: [2]".to_owned())],
        set_json: one("c={\"d\":[1,null]},e=\"t\",f="),
        set: one("c.z=5"),
        set_string: one("s=true,t={1,2}"),
        set_file: one("p=cert.pem"),
    };
    let wanted = json!({
        "a": { "x": 1.0, "z": null }, "b": [2.0], "c": { "d": [1.0, null], "z": 5 }, "e": "t", "f": null,
        "s": "true", "t": ["1", "2"], "p": "PEM\n"
    });
    assert_eq!(Json::Object(flags.apply(Values::new(), &read).unwrap()), wanted);
    let missing = Overrides { set_file: one("p=nope"), ..Overrides::default() };
    assert_eq!(missing.apply(Values::new(), &read).unwrap_err().to_string(), "--set-file p=nope: no such file");
    let broken = Overrides { files: vec![("f".to_owned(), "- a".to_owned())], ..Overrides::default() };
    assert_eq!(broken.apply(Values::new(), &read).unwrap_err().to_string(), "f: not a mapping of values");
}

#[test]
fn nulls_remove_what_the_chart_has_and_only_that() {
    let fields = |json: Json| json.as_object().cloned().unwrap();
    let chart = fields(json!({ "a": { "b": 1, "c": 2, "n": null }, "d": 3, "l": [1, 2] }));
    let user = fields(json!({ "a": { "b": null, "own": null }, "d": null, "l": [], "new": null }));
    let wanted = json!({ "a": { "c": 2, "n": null, "own": null }, "l": [], "new": null });
    assert_eq!(Json::Object(values::complete(user, &chart)), wanted);
    let scalar = fields(json!({ "a": 5 }));
    assert_eq!(values::complete(scalar, &chart)["a"], json!(5));
}

const SCHEMA: &str = r##"{
  "type": "object", "additionalProperties": false, "required": ["name"],
  "properties": {
    "name": { "type": "string", "minLength": 1, "pattern": "^[a-z]*$" },
    "port": { "$ref": "#/definitions/port" },
    "list": { "type": "array", "items": { "$ref": "#/definitions/port" } },
    "mode": { "enum": ["a", null, 3] },
    "map": { "additionalProperties": { "type": ["string", "null"] } },
    "either": { "anyOf": [{ "type": "boolean" }, { "type": "integer" }] }
  },
  "definitions": { "port": { "type": "integer", "minimum": 1, "maximum": 65535 } }
}"##;

fn complaints(text: &str) -> Vec<String> {
    let about = file("Chart.yaml", "{name: c}");
    let chart = Chart::new([about, file("values.schema.json", SCHEMA)]).unwrap();
    match chart.accept(values::file("v", text).unwrap()) {
        Ok(_) => vec![],
        Err(ChartError::Schema { wrong, .. }) => wrong,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_schema_names_every_wrong_value() {
    assert_eq!(complaints("{name: x, port: 80, list: [1, 2.0], mode: null, map: {a: b, c: null}, either: 5}"), [""; 0]);
    assert_eq!(complaints("{name: x, port: 0}"), ["port: 0 is less than 1"]);
    assert_eq!(complaints("{name: x, port: '80'}"), ["port: must be integer, but is the text \"80\""]);
    assert_eq!(
        complaints("{name: x, list: [1, 70000, 1.5]}"),
        ["list[1]: 70000 is more than 65535", "list[2]: must be integer, but is the number 1.5"]
    );
    assert_eq!(
        complaints("{nam: x, mode: b}"),
        ["mode: \"b\" is none of \"a\", null, 3", "nam: unknown key", "the values: name is missing"]
    );
    assert_eq!(complaints("{name: X, map: {a: 1}, either: x}").len(), 3);
    assert_eq!(complaints("{name: ''}"), ["name: needs at least 1 characters"]);
}

#[test]
fn a_schema_beyond_ours_is_an_error_of_the_chart() {
    let about = file("Chart.yaml", "{name: c}");
    let chart = Chart::new([about, file("values.schema.json", r#"{"dependentRequired": {}}"#)]).unwrap();
    assert!(chart.accept(Values::new()).unwrap_err().to_string().contains("dependentRequired"));
}

#[test]
fn a_chart_in_a_chart_is_refused() {
    let files = [file("Chart.yaml", "{name: c}"), file("charts/d/Chart.yaml", "{name: d}")];
    assert!(Chart::new(files).unwrap_err().to_string().contains("charts in charts"));
    assert_eq!(chart("a: 1", &[]).values["a"], json!(1.0));
}
