{{- define "ebpf-evict.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "ebpf-evict.selector" -}}
app.kubernetes.io/name: ebpf-evict
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ebpf-evict.labels" -}}
{{ include "ebpf-evict.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "ebpf-evict.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
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

{{- define "ebpf-evict.config" -}}
{{- $config := deepCopy .Values.config -}}
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
