# shellcheck shell=bash disable=SC2154
# Sourced by tests/cluster/up: the certificates of a cluster, in $state/pki, and kubeconfigs with them.

# A certificate authority: authority NAME
authority() {
  local place=$state/pki/$1
  openssl ecparam -genkey -name prime256v1 -noout -out "$place.key"
  openssl req -x509 -new -key "$place.key" -subj "/CN=$1" -days 30 -out "$place.crt"
}

# A certificate for both ends of TLS: certificate AUTHORITY NAME SUBJECT [ALTERNATIVE,...]
certificate() {
  local authority=$state/pki/$1 place=$state/pki/$2 extensions='extendedKeyUsage=serverAuth,clientAuth'
  [ -z "${4-}" ] || extensions+=$'\n'"subjectAltName=$4"
  openssl ecparam -genkey -name prime256v1 -noout -out "$place.key"
  openssl req -new -key "$place.key" -subj "$3" \
    | openssl x509 -req -CA "$authority.crt" -CAkey "$authority.key" -CAcreateserial -days 30 \
      -extfile <(echo "$extensions") -out "$place.crt" 2>/dev/null
}

# Who uses the API server with a certificate: kubeconfig CERTIFICATE FILE
kubeconfig() {
  local certificate=$state/pki/$1
  encoded() { base64 -w0 "$1"; }
  cat >"$2" <<YAML
apiVersion: v1
kind: Config
current-context: gammarus
contexts: [{name: gammarus, context: {cluster: gammarus, user: $1}}]
clusters:
- name: gammarus
  cluster:
    server: https://$host_address:6443
    certificate-authority-data: $(encoded "$state/pki/cluster.crt")
users:
- name: $1
  user:
    client-certificate-data: $(encoded "$certificate.crt")
    client-key-data: $(encoded "$certificate.key")
YAML
  chmod 600 "$2"
}

# Everybody who has one.
write_certificates() {
  local node names
  mkdir -p "$state/pki"
  authority cluster
  authority etcd
  certificate etcd etcd-server /CN=etcd "IP:$host_address"
  certificate etcd etcd-client /CN=kube-apiserver
  names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  certificate cluster kube-apiserver /CN=kube-apiserver "$names,IP:$api_service_address,IP:$host_address,IP:$host_address6"
  certificate cluster kubelet-client /CN=kube-apiserver-kubelet-client
  certificate cluster admin /O=system:masters/CN=admin
  certificate cluster kube-controller-manager /CN=system:kube-controller-manager
  certificate cluster kube-scheduler /CN=system:kube-scheduler
  certificate cluster kube-proxy /CN=system:kube-proxy
  certificate cluster load-balancer /CN=load-balancer
  for node in "${nodes[@]}"; do
    certificate cluster "$node" "/O=system:nodes/CN=system:node:$node" \
      "DNS:$node,IP:$(node_address "$node"),IP:$(node_address6 "$node")"
  done
  openssl ecparam -genkey -name prime256v1 -noout -out "$state/pki/accounts.key"
  openssl ec -in "$state/pki/accounts.key" -pubout -out "$state/pki/accounts.pub" 2>/dev/null
}
