# shellcheck shell=bash disable=SC2154
# Sourced by tests/prepare.sh: the Gateway API's conformance suite, and the images of the applications it talks to.

need_conformance_programs() {
  need_go
  need_packages openssl
  local suite=tests/conformance/suite echo=tests/conformance/echo dns=tests/cluster/programs/coredns images
  CONFORMANCE_SUITE=$(cached "conformance-suite-$(version_of $suite)" suite.test build_conformance_suite)
  images=$(version_of $suite)-$(version_of $echo)-$(version_of $dns)-$(sha256sum "$repository/tests/conformance/programs.sh" | cut -c1-16)
  CONFORMANCE_IMAGES=$(cached "conformance-images-$images" echo-basic.tar build_conformance_images)
  CONFORMANCE_IMAGES=$(dirname "$CONFORMANCE_IMAGES")
  export CONFORMANCE_SUITE CONFORMANCE_IMAGES
}
build_conformance_suite() {
  (cd "$repository/tests/conformance/suite" && CGO_ENABLED=0 go test -c -ldflags '-s -w' -o "$into/suite.test" .)
}
# Under the names that the suite's own manifests use.
build_conformance_images() {
  local suite=tests/conformance/suite echo=tests/conformance/echo dns=tests/cluster/programs/coredns manifests
  manifests=$(cd "$repository/$suite" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance) || return 1
  mkdir -p "$into/basic" "$into/dns" "$into/advanced/usr/local/bin" || return 1
  into=$into/basic build_programs $suite sigs.k8s.io/gateway-api/conformance/echo-basic || return 1
  archive "$into/basic" "$into/echo-basic.tar" "$(images_named "$manifests" echo-basic)" \
    '"Entrypoint": ["/echo-basic"]' || return 1
  # The cluster's own, which is newer than what the suite names and does what it asks of it.
  into=$into/dns build_programs $dns . || return 1
  archive "$into/dns" "$into/coredns.tar" "$(images_named "$manifests" coredns)" '"Entrypoint": ["/coredns"]' || return 1
  into=$into/advanced/usr/local/bin build_programs $echo istio.io/istio/pkg/test/echo/cmd/{client,server} || return 1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=echo \
    -keyout "$into/advanced/cert.key" -out "$into/advanced/cert.crt" 2>/dev/null || return 1
  # Its user is anybody.
  chmod 644 "$into/advanced/cert.key"
  archive "$into/advanced" "$into/echo-advanced.tar" "$(images_named "$manifests" echo-advanced)" \
    '"Entrypoint": ["/usr/local/bin/server"]' || return 1
  rm -r "$into/basic" "$into/dns" "$into/advanced"
}
# All names with this word among the images of a folder's manifests, in one line.
images_named() {
  grep -rhoE "image: *[^ ]*/$2:[^ ]+" "$1" --include='*.yaml' | sed 's/image: *//' | sort -u | paste -sd ' '
}
