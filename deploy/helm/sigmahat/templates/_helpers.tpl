{{- define "sigmahat.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- /* What selects the pods of a component; call with (list . "server"). */ -}}
{{- define "sigmahat.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{- define "sigmahat.labels" -}}
{{ include "sigmahat.selector" . }}
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
helm.sh/chart: {{ (first .).Chart.Name }}-{{ (first .).Chart.Version }}
{{- end }}

{{- define "sigmahat.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default (printf "%s-%s" .Chart.AppVersion .Values.device) }}
{{- end }}
{{- end }}

{{- /* Seconds between a pod's leaving its Service and SIGTERM: clients reconnect (an age has 10 % of jitter), ask DNS again,
and end what they sent. */ -}}
{{- define "sigmahat.preStopSeconds" -}}
{{- $drain := .Values.drain -}}
{{- add (ceil (mulf $drain.connectionAgeSeconds 1.1)) $drain.dnsMinimumSeconds $drain.longestRequestSeconds -}}
{{- end }}

{{- define "sigmahat.graceSeconds" -}}
{{- add (include "sigmahat.preStopSeconds" .) .Values.drain.exitTimeoutSeconds 15 -}}
{{- end }}

{{- /* MiB of /dev/shm: 2.5 times the largest request for each instance of a Python model, of which a GPU has five. */ -}}
{{- define "sigmahat.sharedMemoryMiB" -}}
{{- if .Values.sharedMemory.sizeMiB }}{{ .Values.sharedMemory.sizeMiB }}
{{- else -}}
{{- $instances := ternary (mul 5 .Values.gpu.count) 1 (eq .Values.device "gpu") -}}
{{- max 1024 (ceil (mulf 2.5 .Values.sharedMemory.largestRequestMiB $instances)) -}}
{{- end }}
{{- end }}

{{- define "sigmahat.resources" -}}
{{- $resources := .Values.resources -}}
{{- $amounts := dict "cpu" ($resources.cpu | toString)
      "memory" (printf "%dMi" (add $resources.memoryMiB (include "sigmahat.sharedMemoryMiB" .) | int))
      "ephemeral-storage" (printf "%dMi" (int $resources.ephemeralStorageMiB)) -}}
{{- if eq .Values.device "gpu" }}{{ $_ := set $amounts .Values.gpu.resource (.Values.gpu.count | toString) }}{{ end -}}
requests: {{- toYaml $amounts | nindent 2 }}
limits: {{- toYaml $amounts | nindent 2 }}
{{- end }}

{{- define "sigmahat.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "sigmahat.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* What all pods of the engine's own image share. */ -}}
{{- define "sigmahat.podCommon" -}}
serviceAccountName: {{ include "sigmahat.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "sigmahat.podSecurity" . | nindent 2 }}
{{- end }}

{{- define "sigmahat.onProducts" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: nvidia.com/gpu.product
            operator: In
            values: {{- toYaml . | nindent 14 }}
{{- end }}

{{- /* Builds what the cache lacks, and links it into this pod's copy of the models. Needs the GPU as the server does. */ -}}
{{- define "sigmahat.engines" -}}
name: engines
image: {{ include "sigmahat.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command:
  - sh
  - -ec
  - >-
    cp -r /opt/sigmahat/model_repository/. /models;
    exec sigmahat engines build --model-repository /models --cache /var/cache/sigmahat/engines
    --precision {{ .Values.engines.precision }}{{ if .Values.engines.fused }} --fused{{ end }}
resources: {{- include "sigmahat.resources" . | nindent 2 }}
securityContext: {{- include "sigmahat.containerSecurity" . | nindent 2 }}
volumeMounts: {{- include "sigmahat.mounts" . | nindent 2 }}
{{- end }}

{{- define "sigmahat.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- if eq .Values.device "gpu" }}
- name: models
  mountPath: /models
- name: heartbeats
  mountPath: /heartbeats
- name: cache
  mountPath: /var/cache/sigmahat
{{- end }}
{{- end }}

{{- define "sigmahat.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.resources.ephemeralStorageMiB }}Mi
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ include "sigmahat.sharedMemoryMiB" . }}Mi
{{- if eq .Values.device "gpu" }}
- name: models
  emptyDir: {}
- name: heartbeats
  emptyDir: {}
- name: cache
  {{- $claim := include "sigmahat.cacheClaim" . }}
  {{- if $claim }}
  persistentVolumeClaim:
    claimName: {{ $claim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end }}

{{- define "sigmahat.cacheClaim" -}}
{{- if .Values.cache.existingClaim }}{{ .Values.cache.existingClaim }}
{{- else if .Values.cache.storageClass }}{{ include "sigmahat.name" . }}-cache
{{- end }}
{{- end }}

{{- /* Empty, or the Secret with which the servers encrypt: behind Envoy it is Envoy's. */ -}}
{{- define "sigmahat.serverTls" -}}
{{- if not .Values.envoy.enabled }}{{ .Values.tls.certificate }}{{ end }}
{{- end }}

{{- /* Host and port that callers inside the cluster use. */ -}}
{{- define "sigmahat.address" -}}
{{ include "sigmahat.name" . }}{{ if .Values.envoy.enabled }}-envoy{{ end }}.{{ .Release.Namespace }}.svc:8001
{{- end }}
