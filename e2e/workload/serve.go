package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// grace is how long requests may take to end after the workload was told to.
const grace = 5 * time.Second

// serve answers until ctx ends, which is a good end, or until it has to fail.
func serve(ctx context.Context, o options, out io.Writer) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "listening at", listener.Addr())
	server := &http.Server{Handler: routes(o, time.Now()), ReadHeaderTimeout: grace}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var fail <-chan time.Time
	if o.failAfter > 0 {
		fail = time.After(o.failAfter)
	}
	select {
	case err := <-served:
		return err
	case <-fail:
		return errors.Join(fmt.Errorf("failing after %s, as asked", o.failAfter), server.Close(), closed(<-served))
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	return errors.Join(server.Shutdown(ending), closed(<-served))
}

// closed drops the error that says that the server was closed.
func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func routes(o options, began time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname() // the pod's; without it the answer still tells what was said
		fmt.Fprintln(w, o.say, name)
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if o.readyAfter < 0 || time.Since(began) < o.readyAfter {
			http.Error(w, "not ready yet, as asked", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}
