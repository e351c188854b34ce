{{- define "concord.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The label of all that belongs to this release. */}}
{{- define "concord.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "concord.labels" -}}
{{ include "concord.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "concord.secret" -}}
{{ .Values.existingSecret | default (printf "%s-secret" (include "concord.name" .)) }}
{{- end }}

{{/* The addresses of all meta nodes. */}}
{{- define "concord.join" -}}
{{- $name := include "concord.name" . -}}
{{- $addresses := list -}}
{{- range $i := until (int .Values.meta.replicas) -}}
{{- $addresses = append $addresses
  (printf "%s-meta-%d.%s-meta.%s.svc.%s:8091" $name $i $name $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{ join "," $addresses }}
{{- end }}

{{/* Variables of each node: its name, and the meta nodes. Takes the root, and the headless service of the node. */}}
{{- define "concord.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: INFLUXDB_HOSTNAME
  value: $(POD_NAME).{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
- name: INFLUXDB_JOIN
  value: {{ include "concord.join" .root | quote }}
{{- if .root.Values.tls.enabled }}
- {name: SSL_CERT_FILE, value: /etc/influxdb/tls/ca.crt}
{{- end }}
{{- range $key, $value := .more }}
- name: {{ $key }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Where pods run. Takes the root, and the component. */}}
{{- define "concord.placement" -}}
{{- $labels := printf "%s\napp.kubernetes.io/component: %s" (include "concord.selector" .root) .component -}}
affinity:
  podAntiAffinity:
    {{- if eq .root.Values.antiAffinity "hard" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- $labels | nindent 12 }}
    {{- end }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchLabels: {{- $labels | nindent 14 }}
      - weight: 50
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- $labels | nindent 14 }}
  {{- with .zone }}
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: topology.kubernetes.io/zone, operator: In, values: [{{ . | quote }}]}
  {{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How pods and their containers may run. */}}
{{- define "concord.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "concord.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Probes of a port that answers /ping. Takes the root, and the port. A node with many shards starts slowly. */}}
{{- define "concord.probes" -}}
{{- $get := printf "{path: /ping, port: %s, scheme: %s}" .port (ternary "HTTPS" "HTTP" .root.Values.tls.enabled) -}}
startupProbe:
  httpGet: {{ $get }}
  periodSeconds: 5
  failureThreshold: 720
readinessProbe:
  httpGet: {{ $get }}
  periodSeconds: 5
livenessProbe:
  httpGet: {{ $get }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "concord.mounts" -}}
- {name: data, mountPath: /var/lib/influxdb}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/influxdb/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "concord.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ required "tls.secretName is needed with tls.enabled" .Values.tls.secretName }}
{{- end }}
{{- end }}

{{/* The claim for a node's files. Takes its storage. */}}
{{- define "concord.claim" -}}
- metadata: {name: data}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .className }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .size }}}}
{{- end }}
