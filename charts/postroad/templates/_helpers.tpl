{{- define "postroad.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The tier's StatefulSet, Services, budget and policies. */}}
{{- define "postroad.tierName" -}}
{{ include "postroad.name" . }}-{{ .Values.tier.name }}
{{- end -}}

{{/* REPOSITORY:TAG@DIGEST of a dict with repository, tag, digest. */}}
{{- define "postroad.imageReference" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "postroad.image" -}}
{{- with .Values.image -}}
{{- include "postroad.imageReference" (dict "repository" .repository "tag" (.tag | default $.Chart.AppVersion) "digest" .digest) -}}
{{- end -}}
{{- end -}}

{{/* Of what the transport pods run: a version of its own, so that a new operator restarts none of them. */}}
{{- define "postroad.transportImage" -}}
{{- $own := .Values.transport.image -}}
{{- $version := index .Chart.Annotations "postroad.dev/transport-version" -}}
{{- $shared := not (or $own.repository $own.tag) -}}
{{- include "postroad.imageReference" (dict
  "repository" ($own.repository | default .Values.image.repository)
  "tag" (coalesce $own.tag .Values.image.tag $version)
  "digest" ($own.digest | default (ternary .Values.image.digest "" $shared))) -}}
{{- end -}}

{{- define "postroad.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: postroad
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "postroad.operatorSelector" -}}
app.kubernetes.io/name: postroad
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "postroad.transportSelector" -}}
app.kubernetes.io/name: postroad
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: transport
postroad.dev/tier: {{ .Values.tier.name }}
{{- end -}}

{{/* What Pod Security "restricted" asks of a pod, and of a container. */}}
{{- define "postroad.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "postroad.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods may run: a dict with root, workload (its values). */}}
{{- define "postroad.placement" -}}
{{- $placement := dict -}}
{{- with .root.Values.imagePullSecrets }}{{ $_ := set $placement "imagePullSecrets" . }}{{ end -}}
{{- $workload := .workload -}}
{{- range $field := list "priorityClassName" "nodeSelector" "tolerations" "affinity" -}}
{{- with get $workload $field }}{{ $_ := set $placement $field . }}{{ end -}}
{{- end -}}
{{- with $placement }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* The same pods over zones and nodes: their selector. */}}
{{- define "postroad.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* The port that a connector binds for a port of the Service: a dict with root, name. Empty: there is none. */}}
{{- define "postroad.targetPort" -}}
{{- $name := .name -}}
{{- range .root.Values.transport.ports }}{{ if eq .name $name }}{{ .targetPort }}{{ end }}{{ end -}}
{{- end -}}

{{/* First of the tier's own domains: the account of a fresh install and `helm test` are in it. */}}
{{- define "postroad.firstDomain" -}}
{{- with .Values.defaults.domains }}{{ (first .).domain }}{{ end -}}
{{- end -}}

{{/* Secret with the accounts of the default submission connector. */}}
{{- define "postroad.accountsSecret" -}}
{{- .Values.defaults.submission.existingSecret | default (printf "%s-account" (include "postroad.name" .)) -}}
{{- end -}}

{{/* The rights and the Job that bring CRDs: there only while an installation or upgrade goes on. */}}
{{- define "postroad.crdsHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Values that contradict each other. */}}
{{- define "postroad.check" -}}
{{- $service := .Values.transport.service -}}
{{- if and (ne $service.type "ClusterIP") (eq $service.externalTrafficPolicy "Cluster") (not $service.proxyProtocol.enabled) (not .Values.tier.clientAddressesHidden) -}}
{{- fail "transport.service.externalTrafficPolicy Cluster hides the clients' addresses, by which connectors are chosen: use Local, or transport.service.proxyProtocol, or admit it with tier.clientAddressesHidden" -}}
{{- end -}}
{{- if and $service.proxyProtocol.enabled (not $service.proxyProtocol.trustedRanges) -}}
{{- fail "transport.service.proxyProtocol.enabled needs trustedRanges: the load balancer's addresses, whose header is believed" -}}
{{- end -}}
{{- with .Values.transport.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- fail "transport.autoscaling.maxReplicas is below minReplicas" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor and metrics.serviceMonitor would scrape everything twice: enable one" -}}
{{- end -}}
{{- if and .Values.defaults.enabled .Values.defaults.submission.enabled (not .Values.defaults.submission.existingSecret) (not .Values.defaults.domains) -}}
{{- fail "defaults.submission needs existingSecret where defaults.domains is empty: there is no domain to make an account in" -}}
{{- end -}}
{{- end -}}
