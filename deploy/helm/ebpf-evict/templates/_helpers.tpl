{{- define "ebpf-evict.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "ebpf-evict.selector" -}}
app.kubernetes.io/name: ebpf-evict
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ebpf-evict.labels" -}}
{{ include "ebpf-evict.selector" . }}
app.kubernetes.io/version: {{ include "ebpf-evict.label" (.Values.image.tag | default .Chart.AppVersion) }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "ebpf-evict.label" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- end -}}

{{- /* A label's value, of what may be longer and have other characters: a tag, a version. */ -}}
{{- define "ebpf-evict.label" -}}
{{- regexReplaceAll "[^A-Za-z0-9_.-]" . "_" | trimAll "-_." | trunc 63 | trimAll "-_." | quote -}}
{{- end -}}

{{- /* Labels or annotations of the values (third) beside the chart's own (first); the second is their key
in the values. */ -}}
{{- define "ebpf-evict.beside" -}}
{{- $own := index . 0 | fromYaml -}}
{{- $where := index . 1 -}}
{{- range $key, $_ := index . 2 -}}
  {{- if hasKey $own $key -}}
    {{- fail (printf "values: %s: %s is the chart's own" $where $key) -}}
  {{- end -}}
{{- end -}}
{{- with index . 2 }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "ebpf-evict.image" -}}
image: {{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{- /* Requests equal to limits: a Guaranteed pod. */ -}}
{{- define "ebpf-evict.resources" -}}
resources:
  requests: {{ toJson . }}
  limits: {{ toJson . }}
{{- end -}}

{{- /* A volume's name, of a host directory. */ -}}
{{- define "ebpf-evict.volume" -}}
{{- . | trimPrefix "/" | replace "/" "-" | replace "_" "-" | replace "." "-" | lower | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Whether the path (second) is the directory (first) or below it. */ -}}
{{- define "ebpf-evict.below" -}}
{{- if hasPrefix (printf "%s/" (index . 0 | clean)) (printf "%s/" (index . 1 | clean)) }}yes{{ end -}}
{{- end -}}

{{- /* Whether the path (second) is one of the directories (first) or below one. */ -}}
{{- define "ebpf-evict.within" -}}
{{- $path := index . 1 -}}
{{- range index . 0 }}{{ include "ebpf-evict.below" (list . $path) }}{{ end -}}
{{- end -}}

{{- /* The directories that the agent and the disk process have of the host, as a YAML list. The kubelet's
file is in it by its directory where no other one has it. */ -}}
{{- define "ebpf-evict.dirs" -}}
{{- $dirs := concat (list .Values.host.kubeletDir) .Values.host.runtimeDirs -}}
{{- with .Values.config.kubeletConfig -}}
  {{- if not (include "ebpf-evict.within" (list $dirs .)) -}}
    {{- $dirs = append $dirs (dir .) -}}
  {{- end -}}
{{- end -}}
{{- range $key := list "nodefs" "imagefs" "containerfs" -}}
  {{- with index $.Values.config $key -}}
    {{- if not (include "ebpf-evict.within" (list $dirs .)) -}}
      {{- fail (printf "values: config.%s: %s of the host is not mounted (host.kubeletDir, host.runtimeDirs)" $key .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with .Values.config.podLogsDir -}}
  {{- if not (include "ebpf-evict.within" (list (append $dirs $.Values.host.podLogsDir) .)) -}}
    {{- fail (printf "values: config.podLogsDir: %s of the host is not mounted (host.podLogsDir)" .) -}}
  {{- end -}}
{{- end -}}
{{- $own := list "/proc" "/sys" "/dev" "/run/ebpf-evict" "/etc/ebpf-evict" -}}
{{- /* Not what lies above these: cri-dockerd's socket is in /run itself. */ -}}
{{- $socket := clean .Values.host.runtimeSocketDir -}}
{{- range $own -}}
  {{- if or (include "ebpf-evict.below" (list . $socket)) (eq $socket "/") -}}
    {{- fail (printf "values: the directory %s of the host (host.runtimeSocketDir) can't be mounted: %s is the container's own" $socket .) -}}
  {{- end -}}
{{- end -}}
{{- $seen := list $socket -}}
{{- $names := list "config" "run" "run-agent" "run-table" "run-disk" "token" "cgroup" "bpffs" "runtime-socket" -}}
{{- range append $dirs .Values.host.podLogsDir -}}
  {{- $path := clean . -}}
  {{- $name := include "ebpf-evict.volume" $path -}}
  {{- range $own -}}
    {{- if or (include "ebpf-evict.below" (list . $path)) (include "ebpf-evict.below" (list $path .)) (eq $path "/") -}}
      {{- fail (printf "values: the directory %s of the host (host.kubeletDir, host.podLogsDir, host.runtimeDirs or that of config.kubeletConfig) can't be mounted: %s is the container's own" $path .) -}}
    {{- end -}}
  {{- end -}}
  {{- if or (has $path $seen) (has $name $names) -}}
    {{- fail (printf "values: the directory %s of the host is named twice, or the name of its volume, %s, is taken (host.kubeletDir, host.podLogsDir, host.runtimeDirs, host.runtimeSocketDir, config.kubeletConfig)" $path $name) -}}
  {{- end -}}
  {{- $seen = append $seen $path -}}
  {{- $names = append $names $name -}}
{{- end -}}
{{- toYaml $dirs -}}
{{- end -}}

{{- /* Directories of the host, each at its own path. HostToContainer: what the host unmounts is
unmounted here too, so that no volume of a pod is held. */ -}}
{{- define "ebpf-evict.hostDirs" -}}
{{- range . }}
- name: {{ include "ebpf-evict.volume" . }}
  mountPath: {{ . }}
  readOnly: true
  mountPropagation: HostToContainer
{{- end }}
{{- end -}}

{{- /* The companion's uid and gid, which own the workload table. */ -}}
{{- define "ebpf-evict.kubeUser" -}}65533{{- end -}}

{{- /* Taint keys of the companion (pkg/kube). */ -}}
{{- define "ebpf-evict.taints" -}}
[ebpf-evict/memory-pressure, ebpf-evict/disk-pressure, ebpf-evict/pid-pressure]
{{- end -}}

{{- /* What is mounted is what is read. nodefs: where the default is missing, the agent takes the root, which
is the container's here. */ -}}
{{- define "ebpf-evict.config" -}}
{{- $config := merge (deepCopy .Values.config) (dict "nodefs" .Values.host.kubeletDir) -}}
{{- /* The kubelet's own file may say another: that is not mounted then, and its logs are no data. */ -}}
{{- if or (not .Values.config.kubeletConfig) (ne (clean .Values.host.podLogsDir) "/var/log/pods") -}}
{{- $config = merge $config (dict "podLogsDir" .Values.host.podLogsDir) -}}
{{- end -}}
{{- if .Values.kube.enabled -}}
{{- $_ := set $config "tableOwner" (include "ebpf-evict.kubeUser" . | int) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* What the companion needs of it: the kubelet's file, which the agent's may name, is not everybody's
to read. */ -}}
{{- define "ebpf-evict.kubeConfig" -}}
tableOwner: {{ include "ebpf-evict.kubeUser" . }}
{{- with .Values.config.evictionPressureTransitionPeriod }}
evictionPressureTransitionPeriod: {{ . | quote }}
{{- end -}}
{{- end -}}

{{- define "ebpf-evict.annotations" -}}
kubectl.kubernetes.io/default-container: agent
# The configuration is read at the start: a new one starts the pods anew.
checksum/config: {{ printf "%s\n%s" (include "ebpf-evict.config" .) (include "ebpf-evict.kubeConfig" .) | sha256sum }}
{{- end -}}

{{- define "ebpf-evict.nodeName" -}}
env:
  - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- end -}}

{{- define "ebpf-evict.tolerations" -}}
{{- $all := .Values.tolerations -}}
{{- range include "ebpf-evict.taints" . | fromYamlArray -}}
{{- $all = append $all (dict "key" . "operator" "Exists") -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}
