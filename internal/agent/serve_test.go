package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestA35_SlowCallers: who takes his time with the header or the body of a hook is cut off, while others are served
// (faults.md A35).
func TestA35_SlowCallers(t *testing.T) {
	read := make(chan error, 2)
	hooks := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, err := io.ReadAll(req.Body)
		if err != nil {
			read <- err
		}
		w.WriteHeader(http.StatusOK)
	})
	s, err := listenForHooks(t.Context(), "127.0.0.1:0", hooks)
	if err != nil {
		t.Fatal(err)
	}
	for name, timeout := range map[string]time.Duration{"header": s.http.ReadHeaderTimeout, "body": s.http.ReadTimeout, "answer": s.http.WriteTimeout, "pause": s.http.IdleTimeout} {
		if timeout <= 0 || timeout > 30*time.Second {
			t.Errorf("the %s may take %s", name, timeout)
		}
	}
	s.http.ReadHeaderTimeout, s.http.ReadTimeout = 200*time.Millisecond, 400*time.Millisecond
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx) }()
	for name, sent := range map[string]string{
		"in the header": "POST /hook/x HTTP/1.1\r\nHost: x\r\nX-",
		"in the body":   "POST /hook/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
		"in a chunk":    "POST /hook/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
	} {
		conn, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		answer, err := http.Post("http://"+s.listener.Addr().String()+"/hook/x", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatalf("%s: another caller: %v", name, err)
		}
		answer.Body.Close()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: he is not cut off: %v", name, err)
		}
		conn.Close()
	}
	if err := <-read; err == nil {
		t.Error("the body came to an end")
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
