# shellcheck shell=bash disable=SC2154
# Sourced by tests/prepare.sh: the programs of a Kubernetes cluster, built from the Go modules that the folders beside
# this file pin, and the images that its nodes run.

# The Go module of the whole folder, such as `pinned k8s.io/kubernetes tests/cluster/programs/kubernetes`: its version.
pinned() {
  awk -v module="$1" '{ sub(/^require /, "") } $1 == module { print $2; exit }' "$repository/$2/go.mod"
}

# Programs from the module that a folder pins, in a folder of the cache: NAME FOLDER PACKAGE...
# Each is called as its package is. Prints the folder.
programs_of() {
  local name=$1 folder=$2 program
  shift 2
  program=$(cached "$name-$(version_of "$folder")" "${1##*/}" build_programs "$folder" "$@") || return 1
  dirname "$program"
}
build_programs() {
  local folder=$1
  shift
  # Without symbols, and static: they run on the nodes as they are, and in images that have nothing else.
  (cd "$repository/$folder" && CGO_ENABLED=0 go build -ldflags "-s -w ${linker_flags-}" -o "$into/" "$@")
}

# Kubernetes learns its version from whoever links it; servers and clients compare theirs.
kubernetes_programs() {
  local name=$1 folder=tests/cluster/programs/kubernetes version minor package linker_flags=
  shift
  version=$(pinned k8s.io/kubernetes "$folder")
  minor=${version#v1.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    linker_flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    linker_flags+=" -X $package.gitTreeState=clean"
  done
  programs_of "$name" "$folder" "${@/#/k8s.io/kubernetes/cmd/}"
}

# What an API server needs, without any node: itself, its store, its client, and the Gateway API's own types.
need_api_server_programs() {
  need_go
  local programs
  ETCD=$(cached "etcd-$(version_of tests/cluster/programs/etcd)" etcd build_etcd)
  programs=$(kubernetes_programs kube-apiserver kube-apiserver kubectl)
  KUBE_APISERVER=$programs/kube-apiserver
  KUBECTL=$programs/kubectl
  GATEWAY_API_CRDS=$(cached "gateway-api-crds-$(pinned sigs.k8s.io/gateway-api tests/conformance/suite)" \
    experimental copy_gateway_api_crds)
  GATEWAY_API_CRDS=$(dirname "$GATEWAY_API_CRDS")
  export ETCD KUBE_APISERVER KUBECTL GATEWAY_API_CRDS
}
# Its package is called `server`.
build_etcd() {
  build_programs tests/cluster/programs/etcd go.etcd.io/etcd/server/v3 && mv "$into/server" "$into/etcd"
}
# A folder per channel, with nothing in it but what `kubectl apply -f` takes.
copy_gateway_api_crds() {
  local module
  module=$(cd "$repository/tests/conformance/suite" && go mod download sigs.k8s.io/gateway-api \
    && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api) || return 1
  cp -r --no-preserve=mode "$module/config/crd/standard" "$module/config/crd/experimental" "$into/" \
    && rm "$into"/*/kustomization.yaml
}

# All of a cluster of nodes: programs, and the images of its own pods and of those that tests make.
need_cluster_programs() {
  need_packages conntrack containerd hostname iproute2 iptables nftables openssl procps runc
  need_api_server_programs
  need_cni_tools
  need_cluster_images
  KUBERNETES_PROGRAMS=$(kubernetes_programs kubernetes kube-controller-manager kube-scheduler kubelet kube-proxy)
  export KUBERNETES_PROGRAMS
}

# Helm, for the chart.
need_helm() {
  need_go
  HELM=$(programs_of helm tests/cluster/programs/helm helm.sh/helm/v4/cmd/helm)/helm
  export HELM
}

# What plays nodes, and the pods on them, that are not there.
need_kwok() {
  need_go
  KWOK=$(cached "kwok-$(version_of tests/cluster/programs/kwok)" kwok build_kwok)
  KWOK_STAGES=$(dirname "$KWOK")/stages.yaml
  export KWOK KWOK_STAGES
}
# With its own word on what becomes of nodes and pods, and when.
build_kwok() {
  local folder=tests/cluster/programs/kwok stages
  build_programs "$folder" sigs.k8s.io/kwok/cmd/kwok || return 1
  stages=$(cd "$repository/$folder" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage || return 1
  local file
  for file in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease \
    pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete; do
    echo --- && cat "$stages/$file.yaml" || return 1
  done >"$into/stages.yaml"
}

. "$repository/tests/cluster/images.sh"
