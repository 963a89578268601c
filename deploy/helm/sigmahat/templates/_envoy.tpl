{{- /* Envoy's configuration. Every request goes to the pod with the fewest in flight. */ -}}
{{- define "sigmahat.envoyConfiguration" -}}
node: {id: envoy, cluster: {{ include "sigmahat.name" . }}}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 9901}
static_resources:
  listeners:
    - name: grpc
      address:
        socket_address: {address: 0.0.0.0, port_value: 8001}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: grpc
                codec_type: HTTP2
                common_http_protocol_options:
                  idle_timeout: 300s
                  max_connection_duration: {{ .Values.drain.connectionAgeSeconds }}s # so that clients find new Envoys too
                drain_timeout: {{ .Values.drain.exitTimeoutSeconds }}s
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: servers
                      domains: ["*"]
                      routes: # what callers need; shared memory, tracing, logging and loading of models are not for them
                        {{- range list "ModelInfer" "ModelReady" "ModelMetadata" "ModelConfig" "ModelStatistics" "ServerLive" "ServerReady" "ServerMetadata" }}
                        - match: {path: /inference.GRPCInferenceService/{{ . }}}
                          route:
                            cluster: servers
                            timeout: 0s # the caller's deadline is the one that counts
                        {{- end }}
                      retry_policy: # a request larger than Envoy's buffer (1 MiB) goes once, and the client tries again
                        retry_on: unavailable,connect-failure,reset-before-request,refused-stream,retriable-headers
                        retriable_headers: # NOT_FOUND, which a server that drains says of its models
                          - {name: grpc-status, string_match: {exact: "5"}}
                        num_retries: 3
                        retry_back_off: {base_interval: 0.1s, max_interval: 2s}
                        retry_host_predicate:
                          - name: envoy.retry_host_predicates.previous_hosts
                            typed_config:
                              "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                        # A server that refuses at once has the fewest in flight: of two, it is drawn 3 times in 4.
                        host_selection_retry_max_attempts: 20
          {{- if .Values.tls.certificate }}
          transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              {{- if .Values.tls.clientCa }}
              require_client_certificate: true
              {{- end }}
              common_tls_context:
                alpn_protocols: [h2]
                tls_params: {tls_minimum_protocol_version: TLSv1_2}
                tls_certificate_sds_secret_configs:
                  - name: certificate
                    sds_config:
                      path_config_source: {path: /etc/envoy/certificate.yaml}
                {{- if .Values.tls.clientCa }}
                validation_context_sds_secret_config:
                  name: clients
                  sds_config:
                    path_config_source: {path: /etc/envoy/clients.yaml}
                {{- end }}
          {{- end }}
    - name: metrics
      address:
        socket_address: {address: 0.0.0.0, port_value: 8002}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: metrics
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: admin
                      domains: ["*"]
                      routes:
                        - match: {path: /stats/prometheus}
                          route: {cluster: admin}
                        - match: {path: /ready}
                          route: {cluster: admin}
  clusters:
    - name: servers
      type: STRICT_DNS
      dns_refresh_rate: {{ .Values.drain.dnsMinimumSeconds }}s
      lb_policy: LEAST_REQUEST
      connect_timeout: 2s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options: {}
      circuit_breakers: # the servers' own queues are the limit; three retries at a time, the default, lose the others
        thresholds:
          - {max_requests: 10000, max_pending_requests: 10000, max_retries: 1000}
      health_checks:
        - timeout: 5s
          interval: 5s
          no_traffic_interval: 5s # 60 s by default, in which no request would get through after a start
          unhealthy_threshold: 2
          healthy_threshold: 1
          grpc_health_check: {}
      load_assignment:
        cluster_name: servers
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ include "sigmahat.name" . }}.{{ .Release.Namespace }}.svc
                      port_value: 8001
    - name: admin
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 9901}
{{- end }}
