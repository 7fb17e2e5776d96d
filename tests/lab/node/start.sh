#!/bin/bash
# PID 1 of the node container: etcd, control plane, containerd, kubelet and kube-proxy of a one-node
# Kubernetes. Mounted read-only: /opt/kubernetes (binaries), /opt/lab (this directory), /images
# (`docker save` archives for the node's containerd). Logs are in /var/log/kubernetes.
set -u
service_cidr=${SERVICE_CIDR:?}
pod_cidr=${POD_CIDR:?}
dns_ip=${DNS_IP:?}
node_cidr=${pod_cidr%/*}/24
node=$(hostname)
ip=$(hostname -i)
log=/var/log/kubernetes
mkdir -p /etc/kubernetes /etc/cni/net.d /etc/containerd "$log"
cd /etc/kubernetes || exit 1

# PID 1 ignores signals that it has no handler for.
trap 'jobs -p | xargs -r kill 2>/dev/null; exit 0' TERM INT

echo 1 >/proc/sys/net/ipv4/ip_forward
mount --make-rshared /
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id

runc=runc
[ "${RUNC_COMPAT:-0}" = 1 ] && runc=/opt/lab/runc-compat
cat >/etc/containerd/config.toml <<X
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "tpd-lab/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "$runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
X
cat >/etc/cni/net.d/10-lab.conflist <<X
{"cniVersion": "0.3.1", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$node_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
X
containerd >"$log/containerd.log" 2>&1 &
etcd --data-dir /var/lib/etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
  --advertise-client-urls http://127.0.0.1:2379 >"$log/etcd.log" 2>&1 &

import_images() {
  until ctr version >/dev/null 2>&1; do sleep 0.1; done
  for archive in /images/*.tar; do
    [ -f "$archive" ] && /opt/lab/load.sh "$archive"
  done
}
import_images >"$log/images.log" 2>&1 &
import=$!

# The CA has no key usage, as many real clusters' CAs: clients must not insist on strict X.509.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
  -subj /CN=kubernetes -days 365 2>/dev/null
certificate() { # NAME SUBJECT ALTERNATIVE_NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 365 \
    -extfile <(printf 'subjectAltName=%s' "$3") 2>/dev/null
}
certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
DNS:kubernetes.default.svc.cluster.local,DNS:localhost,DNS:$node,IP:127.0.0.1,IP:${SERVICE_IP:?},IP:$ip"
certificate admin /O=system:masters/CN=admin DNS:admin
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
cat >admin.part <<X
apiVersion: v1
kind: Config
clusters: [{name: tpd-lab, cluster: {server: "https://$ip:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: tpd-lab, user: {client-certificate-data: $(base64 -w0 admin.crt), client-key-data: $(base64 -w0 admin.key)}}]
contexts: [{name: tpd-lab, context: {cluster: tpd-lab, user: tpd-lab}}]
current-context: tpd-lab
X
mv admin.part admin.conf

kube-apiserver --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range="$service_cidr" \
  --client-ca-file=ca.crt --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key \
  --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key \
  --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC \
  --kubelet-client-certificate=admin.crt --kubelet-client-key=admin.key --allow-privileged=true \
  --enable-admission-plugins=NodeRestriction --advertise-address="$ip" \
  --kubelet-preferred-address-types=InternalIP >"$log/apiserver.log" 2>&1 &
until curl -sk https://127.0.0.1:6443/readyz | grep -q ok; do sleep 0.1; done

kube-controller-manager --kubeconfig=admin.conf --root-ca-file=ca.crt --service-account-private-key-file=sa.key \
  --use-service-account-credentials --allocate-node-cidrs=true --cluster-cidr="$pod_cidr" \
  --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key --leader-elect=false \
  >"$log/controller-manager.log" 2>&1 &
kube-scheduler --kubeconfig=admin.conf --leader-elect=false >"$log/scheduler.log" 2>&1 &

cat >kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: /etc/kubernetes/ca.crt}, webhook: {enabled: true}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
failSwapOn: false
resolvConf: /etc/resolv.conf
evictionHard: {nodefs.available: "1%", imagefs.available: "1%"}
cgroupsPerQOS: false
enforceNodeAllocatable: []
oomScoreAdj: 0
syncFrequency: 5s
imageGCHighThresholdPercent: 100
X
kubelet --kubeconfig=admin.conf --config=kubelet.yaml --hostname-override="$node" --node-ip="$ip" \
  >"$log/kubelet.log" 2>&1 &
kube-proxy --kubeconfig=admin.conf --cluster-cidr="$pod_cidr" --hostname-override="$node" --proxy-mode=nftables \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
  >"$log/proxy.log" 2>&1 &
wait "$import"
touch /run/images-imported

# Any part that ends takes the node with it: a dead container is found and replaced, a half-dead one is not.
wait -n
echo "a part of the node ended; see $log" >&2
exit 1
