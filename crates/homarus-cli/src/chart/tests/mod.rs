//! What Go, sprig, Helm and its YAML library do, held against what we do.
#![allow(clippy::unwrap_used)]

mod hostile;
mod inputs;
mod templates;
mod texts;

use serde_json::{Value as Json, json};

use super::ast::Templates;
use super::value::Value;
use super::{Capabilities, Chart, ChartError, Manifest, Name, Release, eval, parse, print, render, to_yaml, yaml};

fn release() -> Release {
    Release { name: "r".to_owned(), namespace: "ns".to_owned(), service: "Helm".to_owned(), upgrades: false }
}

fn file(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

/// A chart of templates, with values.
fn chart(values: &str, templates: &[(&str, &str)]) -> Chart {
    let about = file("Chart.yaml", "{apiVersion: v2, name: c, version: 0.1.0}");
    let templates = templates.iter().map(|(name, text)| file(&format!("templates/{name}"), text));
    Chart::new([about, file("values.yaml", values)].into_iter().chain(templates)).unwrap()
}

fn rendered(chart: &Chart) -> Result<Vec<Manifest>, ChartError> {
    render(chart, &chart.accept(super::Values::new())?, &release(), &Capabilities::default())
}

/// A template as a manifest that holds its text.
fn text_of(template: &str) -> Result<String, ChartError> {
    let mut define = format!("{{{{ define \"t\" }}}}{template}{{{{ end }}}}");
    // Definitions stand by themselves.
    if let Some(body) = template.rfind("{{ end }}{{").filter(|_| template.starts_with("{{ define")) {
        let (definition, rest) = template.split_at(body + "{{ end }}".len());
        define = format!("{definition}{{{{ define \"t\" }}}}{rest}{{{{ end }}}}");
    }
    let manifest = "out: {{ include \"t\" . | toJson }}";
    let manifests = rendered(&chart(templates::VALUES, &[("_t.tpl", &define), ("x.yaml", manifest)]))?;
    Ok(manifests[0].object["out"].as_str().unwrap().to_owned())
}

#[test]
fn templates_come_to_what_helm_makes_of_them() {
    let wrong: Vec<String> = templates::TEMPLATES
        .iter()
        .map(|(template, wanted)| (template, wanted.map(str::to_owned), text_of(template)))
        .filter(|(_, wanted, found)| found.as_ref().ok() != wanted.as_ref())
        .map(|(template, wanted, found)| format!("{template}\n  wanted {wanted:?}\n  found  {found:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn texts_are_quoted_and_folded_as_go_does() {
    let document = |text: &str| json!({ "k": text, "l": [text, { "x": text }], "n": { "m": text } });
    let wrong: Vec<String> = texts::TEXTS
        .iter()
        .map(|(text, wanted)| (*text, format!("{wanted}\n"), to_yaml(&document(text)).unwrap()))
        .filter(|(_, wanted, found)| wanted != found)
        .map(|(text, wanted, found)| format!("{text:?}\n  wanted {wanted:?}\n  found  {found:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_printed_is_read_back() {
    for (text, _) in texts::TEXTS {
        let document = json!({ "k": text, "l": [text, { "x": text }], "n": { "m": text } });
        let printed = to_yaml(&document).unwrap();
        assert_eq!(yaml::first(&printed).as_ref(), Ok(&document), "{printed}");
    }
}

#[test]
fn keys_have_the_order_of_go_yaml() {
    let ordered = [
        "", "_", "1", "2", "10", "A", "Z", "a", "a-b", "a.b", "a_b", "a1", "a01", "a2", "a10", "aB", "ab", "b", "x1-2", "x1-10",
        "x01b", "x10", "x100", "x1a", "é",
    ];
    let object: Json = ordered.iter().map(|key| (key.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let printed = to_yaml(&object).unwrap();
    let found: Vec<&str> = printed.lines().map(|line| line.split(':').next().unwrap().trim_matches('"')).collect();
    assert_eq!(found, ordered);
}

#[test]
fn keys_that_go_round_in_a_circle_do_no_harm() {
    // In Go's order 10 is before 1b, which is before 2, which is before 10.
    let object: Json =
        (0..500).map(|n| (format!("{}{}", n, ["", "b", "-"][n % 3]), json!(n))).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(yaml::first(&to_yaml(&object).unwrap()), Ok(object));
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let text = "a: &x {k: yes, 1: 2}\nb: *x\nc: {<<: *x, k: other}\nd: 0o17\ne: '0755'\nf: !!str 5\n---\n- 1.5\n---\n";
    let wanted = [
        json!({ "a": { "k": true, "1": 2 }, "b": { "k": true, "1": 2 }, "c": { "k": "other", "1": 2 }, "d": 15, "e": "0755", "f": "5" }),
        json!([1.5]),
        Json::Null,
    ];
    assert_eq!(yaml::documents(text).unwrap(), wanted);
    for broken in ["a: [", "{a: b", "a: b: c", "\"", "a: *nobody", "? [x]\n: y", "a: .nan"] {
        assert!(yaml::documents(broken).is_err(), "{broken}");
    }
}

#[test]
fn manifests_are_cut_and_ordered_like_helms() {
    let several = "kind: Deployment\n---\nkind: Zebra\n\n---\n# nothing\n---\nkind: Namespace\n";
    let hook = "kind: Job\nmetadata: {annotations: {helm.sh/hook: pre-install}}";
    let more =
        [("b.yaml", several), ("a.yaml", "kind: Service"), ("_c.yaml", "kind: Never"), ("h.yaml", hook), ("NOTES.txt", "read me")];
    let manifests = rendered(&chart("", &more)).unwrap();
    let kinds: Vec<&str> = manifests.iter().filter_map(|manifest| manifest.object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Namespace", "Service", "Deployment", "Zebra", "Job"]);
    assert!(
        print(&manifests).starts_with("---\n# Source: c/templates/b.yaml\nkind: Namespace\n---\n# Source: c/templates/a.yaml\n")
    );
}

#[test]
fn errors_tell_the_file_the_line_and_what_to_try() {
    let said = |templates: &[(&str, &str)]| match rendered(&chart("", templates)) {
        Err(error) => format!("{error} / {}", error.remedy()),
        Ok(manifests) => panic!("{manifests:?}"),
    };
    let inner = ("_i.tpl", "{{ define \"i\" }}\n\n{{ fail \"port is taken\" }}{{ end }}");
    assert!(
        said(&[inner, ("x.yaml", "a\n{{ include \"i\" . }}")])
            .starts_with("port is taken (c/templates/_i.tpl:3) / Change the value")
    );
    assert!(
        said(&[("x.yaml", "a\n{{ nope }}")])
            .starts_with("c/templates/x.yaml:2: function \"nope\" not defined / The chart is broken")
    );
    assert!(said(&[("x.yaml", "a\n\n{{ .Values.a.b }}")]).starts_with("c/templates/x.yaml:3: nil pointer evaluating"));
    assert!(said(&[("x.yaml", "a: b: c")]).starts_with("c/templates/x.yaml: rendered into invalid YAML: line 1"));
}

#[test]
fn files_define_for_each_other_and_the_root_wins() {
    let deep = ("sub/_a.tpl", "{{ define \"x\" }}deep{{ end }}{{ define \"y\" }}kept{{ end }}");
    let near = ("_b.tpl", "{{ define \"x\" }}near{{ end }}{{ define \"y\" }} {{ end }}");
    let manifests = rendered(&chart("", &[deep, near, ("x.yaml", "a: {{ template \"x\" }}{{ template \"y\" }}")])).unwrap();
    assert_eq!(manifests[0].object, json!({ "a": "nearkept" }));
}

#[test]
fn values_are_one_thing_for_all_files() {
    // Helm renders in falling order of names; what one file sets, the next one sees.
    let (late, early) = (("a.yaml", "a: {{ .Values.m.k }}"), ("b.yaml", "b: {{ set .Values.m \"k\" \"b\" | len }}"));
    let manifests = rendered(&chart("m: {k: a}", &[late, early])).unwrap();
    assert_eq!(manifests[0].object, json!({ "a": "b" }));
}

#[test]
fn a_chart_for_another_kubernetes_is_refused() {
    let chart = Chart::new([file("Chart.yaml", "{name: c, kubeVersion: '>=1.31.0-0'}")]).unwrap();
    let on = |version: &str| {
        render(&chart, &super::Values::new(), &release(), &Capabilities { version: version.to_owned(), apis: vec![] }).map(|_| ())
    };
    assert!(on("v1.34.0").is_ok() && on("v1.31.0-rc.1").is_ok());
    assert!(on("v1.30.9").unwrap_err().to_string().contains("requires Kubernetes >=1.31.0-0"));
}

#[test]
fn the_charts_of_this_program_are_read_and_accept_their_own_values() {
    for name in Name::ALL {
        let chart = Chart::embedded(name).unwrap();
        let values = chart.accept(super::Values::new()).unwrap();
        assert_eq!(chart.name, name.as_str());
        assert!(!render(&chart, &values, &release(), &Capabilities::default()).unwrap().is_empty(), "{}", chart.name);
    }
}

/// A template by itself, on nothing.
fn evaluated(text: &str) -> Result<String, ChartError> {
    let mut templates = Templates::default();
    parse::file("x", text, &mut templates)?;
    eval::render(&templates, "x", &Value::Absent)
}
