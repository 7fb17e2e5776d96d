{{- define "tpd.labels" -}}
app.kubernetes.io/name: tpd
app.kubernetes.io/part-of: tpd
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tpd.selector" -}}
app.kubernetes.io/name: tpd
app.kubernetes.io/component: manager
{{- end -}}

{{/* An image's full name: dict with "root" and "image". */}}
{{- define "tpd.image" -}}
{{- $name := printf "%s%s" .root.Values.registry .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
