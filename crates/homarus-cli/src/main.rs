//! The `homarus` program.

fn main() -> std::process::ExitCode {
    // Process 1 of a pod of `homarus up` is this program too; that must be settled before any thread exists.
    homarus_local::node::run_if_asked();
    homarus_cli::main()
}
