# shellcheck shell=bash disable=SC2154
# Sourced by tests/cluster/programs.sh: images for a cluster without a registry. Each is a docker-archive of one layer,
# made from programs that were built, or that this machine has.

# archive ROOT OUT NAMES CONFIG: NAMES are the image's names, separated by spaces; CONFIG says what it runs, as JSON.
archive() {
  local root=$1 out=$2 names=$3 config=$4 parts digest
  parts=$(mktemp -d)
  # The same files give the same image.
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$parts/layer.tar" . || return 1
  digest=$(sha256sum "$parts/layer.tar" | cut -d' ' -f1)
  cat >"$parts/config.json" <<JSON
{"architecture": "$(go env GOARCH)", "os": "linux",
 "config": {$config, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
JSON
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"${names// /\", \"}\"], \"Layers\": [\"layer.tar\"]}]" \
    >"$parts/manifest.json"
  tar -C "$parts" -cf "$out" manifest.json config.json layer.tar && rm -r "$parts"
}

# Copies programs of this machine below a folder, with the libraries that they load.
copy_programs() {
  local root=$1 program file
  shift
  for program in "$@"; do
    case $program in
      /*) ;;
      *) program=$(command -v "$program") || return 1 ;;
    esac
    for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
      [ -e "$root$file" ] || install -D "$file" "$root$file" || return 1
    done
  done
}

# What a cluster runs of its own, and what the pods of tests are made of: CLUSTER_IMAGES has the folders of archives.
need_cluster_images() {
  need_packages busybox-static curl iproute2 nginx-light openssl python3
  need_grpc_tools
  local pause coredns tools grpc version
  version=$(sha256sum "$repository/tests/cluster/images.sh" | cut -c1-16)
  pause=$(cached "pause-image-$version" pause.tar build_pause_image)
  coredns=$(cached "coredns-image-$(version_of tests/cluster/programs/coredns)-$version" coredns.tar build_coredns_image)
  tools=$(cached "tools-image-$version" nginx.tar build_tools_images)
  grpc=$(cached "grpc-image-$(version_of tests/grpc)-$version" grpc-tools.tar build_grpc_image)
  CLUSTER_IMAGES="$(dirname "$pause") $(dirname "$coredns") $(dirname "$tools") $(dirname "$grpc")"
  export CLUSTER_IMAGES
}

# The process that holds a pod's namespaces, from the sources of Kubernetes.
build_pause_image() {
  local module root=$into/root
  module=$(cd "$repository/tests/cluster/programs/kubernetes" && go mod download k8s.io/kubernetes \
    && go list -m -f '{{.Dir}}' k8s.io/kubernetes) || return 1
  mkdir "$root" \
    && cc -Os -static -DVERSION=v3.10 -o "$root/pause" "$module/build/pause/linux/pause.c" \
    && archive "$root" "$into/pause.tar" registry.k8s.io/pause:3.10 '"Entrypoint": ["/pause"]' \
    && rm -r "$root"
}

build_coredns_image() {
  local folder=tests/cluster/programs/coredns root=$into/root
  mkdir "$root" \
    && into=$root build_programs "$folder" . \
    && archive "$root" "$into/coredns.tar" \
      "registry.k8s.io/coredns/coredns:$(pinned github.com/coredns/coredns "$folder")" '"Entrypoint": ["/coredns"]' \
    && rm -r "$root"
}

# The client and the server of tests/grpc, and what keeps a pod waiting.
build_grpc_image() {
  local root=$into/root applet
  mkdir -p "$root/bin" && copy_programs "$root" busybox || return 1
  for applet in sleep timeout; do
    ln -s "$(command -v busybox)" "$root/bin/$applet" || return 1
  done
  cp "$GRPC_TOOLS"/grpc-{client,server} "$root/" \
    && archive "$root" "$into/grpc-tools.tar" docker.io/library/grpc-tools:1 '"Cmd": ["/grpc-client"]' \
    && rm -r "$root"
}

# Stand-ins for images that everybody knows, under their names, so that what users type can be typed here: nginx that
# serves /usr/share/nginx/html; curl; busybox; python. All but the last have the same files.
build_tools_images() {
  local root=$into/root applet python
  mkdir -p "$root"/{bin,dev,etc/nginx,proc,run,sys,tmp,usr/share/nginx/html,var/lib/nginx,var/log/nginx} || return 1
  chmod 1777 "$root/tmp"
  copy_programs "$root" busybox curl ip nginx openssl ss || return 1
  for applet in $(busybox --list); do
    [ -e "$root/bin/$applet" ] || ln -s "$(command -v busybox)" "$root/bin/$applet" || return 1
  done
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  printf '%s\n' root:x:0:0:root:/:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false >"$root/etc/passwd"
  printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
  echo '<h1>Welcome to nginx!</h1>' >"$root/usr/share/nginx/html/index.html"
  cat >"$root/etc/nginx/nginx.conf" <<'NGINX'
user nobody nogroup;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {}
http {
  access_log /dev/stdout;
  default_type text/html;
  server {
    listen 80;
    listen [::]:80;
    root /usr/share/nginx/html;
  }
}
NGINX
  archive "$root" "$into/nginx.tar" docker.io/library/nginx:1.29 '"Cmd": ["nginx", "-g", "daemon off;"]' \
    && archive "$root" "$into/curl.tar" docker.io/curlimages/curl:8.17.0 '"Cmd": ["curl"]' \
    && archive "$root" "$into/busybox.tar" docker.io/library/busybox:1.37 '"Cmd": ["sh"]' || return 1
  # Debian's, whatever else is called that.
  python=$(realpath /usr/bin/python3)
  copy_programs "$root" "$python" /usr/lib/"${python##*/}"/lib-dynload/*.so || return 1
  tar -C / --exclude=__pycache__ --exclude='test*' --exclude=idlelib --exclude='config-*' -cf - "usr/lib/${python##*/}" \
    | tar -C "$root" -xf - \
    && ln -s "${python##*/}" "$root/usr/bin/python3" \
    && archive "$root" "$into/python.tar" docker.io/library/python:3 '"Cmd": ["python3"]' \
    && rm -r "$root"
}
