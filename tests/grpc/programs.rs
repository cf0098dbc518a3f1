//! Where the programs are that are built from the Go sources beside this file.

use std::path::PathBuf;

/// A program of the gRPC tools.
#[track_caller]
pub(crate) fn grpc_tool(name: &str) -> String {
    let folder = std::env::var_os("GRPC_TOOLS").expect(
        "GRPC_TOOLS must name the folder of grpc-client and grpc-server: run tests/run, which builds them",
    );
    let path = PathBuf::from(folder).join(name);
    assert!(path.is_file(), "{} is missing: run tests/run, which builds it", path.display());
    path.display().to_string()
}
