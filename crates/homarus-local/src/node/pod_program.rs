//! Process 1 of pods and nothing else, for programs that start a node but can't be their own pods' process 1:
//! the tests. `homarus` itself doesn't need it.

fn main() {
    homarus_local::node::run_if_asked();
    eprintln!("this program is started by a node only");
    std::process::exit(2);
}
