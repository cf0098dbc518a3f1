{{- define "gammarus.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: gammarus
{{- end }}

{{- define "gammarus.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What a program with a Deployment may do to the machine: nothing. */}}
{{- define "gammarus.confined" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- /* What every pod has, from the values of its workload: dict "root" $ "name" NAME "values" VALUES */}}
{{- define "gammarus.metadata" -}}
labels:
  {{- include "gammarus.labels" .name | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gammarus.place" -}}
serviceAccountName: {{ .name }}
# Variables named after Services would look like flags.
enableServiceLinks: false
priorityClassName: {{ .values.priorityClassName }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Replicas keep apart where they can; a cluster of one node has both. */}}
{{- define "gammarus.apart" -}}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {app.kubernetes.io/name: {{ .name }}}
{{- end }}
tolerations:
  # A node gets ready for the mesh with the help of these pods: they do not wait for it.
  - {key: gammarus.io/not-ready, operator: Exists, effect: NoSchedule}
  {{- with .values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
