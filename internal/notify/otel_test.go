package notify

import (
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// TestOTel holds that what a collector is sent is a request of OTLP to the letter, as its own types read it.
func TestOTel(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: otel, address: "`+sink.URL+`/v1/traces"}`)+newAlert(everything))
	w.hear(failureNews())
	w.hear(successNews())
	requests := sink.take()
	if len(requests) != 2 {
		t.Fatalf("%d requests", len(requests))
	}
	var spans []*trace.Span
	for _, r := range requests {
		request := &collector.ExportTraceServiceRequest{}
		// IDs are hexadecimal in OTLP's JSON and not, as protobuf has bytes, base64: their lengths are looked at below.
		if err := protojson.Unmarshal([]byte(r.Body), request); err != nil {
			t.Fatal(err)
		}
		if r.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v", r.Path, r.Header)
		}
		spans = append(spans, request.ResourceSpans[0].ScopeSpans[0].Spans...)
	}
	for i, want := range []trace.Status_StatusCode{trace.Status_STATUS_CODE_ERROR, trace.Status_STATUS_CODE_OK} {
		s := spans[i]
		if s.Status.Code != want || s.StartTimeUnixNano != s.EndTimeUnixNano || s.StartTimeUnixNano == 0 {
			t.Error(s)
		}
		// 32 and 16 characters, three bytes of each four.
		if len(s.TraceId) != 24 || len(s.SpanId) != 12 {
			t.Errorf("IDs of %d and %d", len(s.TraceId), len(s.SpanId))
		}
	}
	if !proto.Equal(&trace.Span{TraceId: spans[0].TraceId}, &trace.Span{TraceId: spans[1].TraceId}) {
		t.Error("one revision of one object is two traces")
	}
}
