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
