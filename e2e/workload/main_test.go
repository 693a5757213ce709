package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestReadiness(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after time.Duration
		lived time.Duration
		code  int
	}{
		{"at once", 0, 0, http.StatusOK},
		{"too early", time.Minute, time.Second, http.StatusServiceUnavailable},
		{"late", time.Minute, time.Hour, http.StatusOK},
		{"never", -1, time.Hour, http.StatusServiceUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			routes(options{readyAfter: tc.after}, time.Now().Add(-tc.lived)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
			if w.Code != tc.code {
				t.Errorf("/ready answers %d, want %d", w.Code, tc.code)
			}
		})
	}
}

// TestFails shows the end that a test asks for, by the environment as a manifest does.
func TestFails(t *testing.T) {
	env := map[string]string{"FAIL_AFTER": "1ms", "LISTEN": "127.0.0.1:0"}
	if err := run(t.Context(), nil, func(name string) string { return env[name] }, &bytes.Buffer{}); err == nil {
		t.Error("ended well")
	}
}

// TestEndsWell shows that being told to end is no failure.
func TestEndsWell(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, []string{"--listen=127.0.0.1:0"}, func(string) string { return "" }, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}

// TestAsks is what a Helm test does: it passes when the other answers 200, even if not at first, and fails when it never does.
func TestAsks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after time.Duration
		ok    bool
	}{{"a little later", 150 * time.Millisecond, true}, {"never", -1, false}} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(routes(options{readyAfter: tc.after}, time.Now()))
			defer server.Close()
			var out bytes.Buffer
			patience := time.Minute
			if !tc.ok {
				patience = 300 * time.Millisecond
			}
			err := run(t.Context(), []string{"--get=" + server.URL + "/ready", "--patience=" + patience.String()}, func(string) string { return "" }, &out)
			if (err == nil) != tc.ok {
				t.Errorf("error %v, want success %t", err, tc.ok)
			}
			if tc.ok && out.String() != "ready\n" {
				t.Errorf("shows %q", out.String())
			}
		})
	}
}
