//! A chart with a file more or less is another program.

fn main() {
    println!("cargo:rerun-if-changed=../../charts");
}
