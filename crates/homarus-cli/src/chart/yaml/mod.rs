//! YAML as Go's libraries read and write it: what Helm and kubectl see is YAML 1.1 as `go-yaml` version 2 knows it, where `yes`
//! is true and `0755` is octal. [`read`] reads, [`print()`] is `toYaml`, [`scalar`] is what both know of plain words.

mod print;
mod read;
mod scalar;

pub(super) use print::{print, print_json};
pub(super) use read::{as_helm_reads, documents, first};
