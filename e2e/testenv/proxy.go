package testenv

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// FailPoint says when an agent is killed at a write.
type FailPoint string

const (
	// BeforeWrite: the API server never sees the request.
	BeforeWrite FailPoint = "before"
	// AfterWrite: the API server has done it, and the agent never hears so.
	AfterWrite FailPoint = "after"
)

// Proxy stands between an agent and the API server, counts the agent's writes, and kills the agent at a chosen one.
// Dry runs, Events and Leases are no writes.
type Proxy struct {
	// Kubeconfig is what the agent is given. It needs no credentials: the proxy adds its own.
	Kubeconfig string

	upstream *httputil.ReverseProxy
	server   *httptest.Server

	mu       sync.Mutex
	down     bool
	writes   []string
	inFlight int        // writes that are on their way to the API server
	landed   *sync.Cond // a write has come back
	at       int        // kill at this write; 0 never
	when     FailPoint
	kill     func()
	tripped  chan struct{}
	notice   func() // called at that write instead of a death, which goes through then
	outage   int    // the status that writes are answered with from there on, instead of a death
	refused  int    // writes that were answered so
}

// NewProxy starts a proxy that lets everything through.
func NewProxy(t testing.TB, cluster *Cluster) *Proxy {
	t.Helper()
	transport, err := rest.TransportFor(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(cluster.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{upstream: &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // Watches stream.
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		// A killed agent leaves requests half done; that is what this is for.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	p.landed = sync.NewCond(&p.mu)
	server := httptest.NewServer(p)
	p.server = server
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(p.Kubeconfig, fmt.Appendf(nil, kubeconfig, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: proxy
contexts: [{name: proxy, context: {cluster: proxy, user: nobody}}]
clusters: [{name: proxy, cluster: {server: %q}}]
users: [{name: nobody, user: {}}]
`

// Cut has every request fail from now on, and cuts those under way and the watches, as when the API server is gone; or ends
// that.
func (p *Proxy) Cut(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	if down {
		p.server.CloseClientConnections()
	}
}

// Arm begins to count anew and calls kill at the nth write. The channel is closed after that; every later request of
// the agent is refused until Disarm.
func (p *Proxy) Arm(n int, when FailPoint, kill func()) <-chan struct{} {
	return p.arm(n, when, kill)
}

func (p *Proxy) arm(n int, when FailPoint, kill func()) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes, p.at, p.when, p.kill, p.tripped = nil, n, when, kill, make(chan struct{})
	p.outage, p.refused, p.notice = 0, 0, nil
	return p.tripped
}

// Notice begins to count anew and calls do at the nth write, before that goes on its way; it and all others get through. The channel
// is closed after that.
func (p *Proxy) Notice(n int, do func()) <-chan struct{} {
	noticed := p.arm(0, BeforeWrite, nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notice = func() {
		if len(p.writes) == n {
			do()
			close(noticed)
		}
	}
	return noticed
}

// Writes returns the writes since the count began, when those under way have reached the API server.
func (p *Proxy) Writes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.inFlight > 0 {
		p.landed.Wait()
	}
	return slices.Clone(p.writes)
}

// patience is how many writes in an outage are refused before it counts as one.
const patience = 3

// Outage begins to count anew and answers the nth and all later writes with a status, until Disarm. The channel is closed when
// some of them were.
func (p *Proxy) Outage(n, status int) <-chan struct{} {
	tripped := p.Arm(n, BeforeWrite, func() {})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outage = status
	return tripped
}

// Disarm lets everything through again, once every write that had left the agent has reached the API server. It returns
// the writes since Arm, and whether the agent was killed.
func (p *Proxy) Disarm() (writes []string, killed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.inFlight > 0 {
		p.landed.Wait()
	}
	killed = p.at > 0 && len(p.writes) >= p.at
	p.at, p.outage = 0, 0
	return p.writes, killed
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.isDown() {
		panic(http.ErrAbortHandler)
	}
	if !isWrite(r) {
		if p.dead() {
			panic(http.ErrAbortHandler)
		}
		p.upstream.ServeHTTP(w, r)
		return
	}
	if status := p.refuse(r); status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"an outage of the test","reason":%q,"code":%d}`, reasons[status], status)
		return
	}
	fatal, ok := p.begin(r)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	defer p.end()
	if !fatal {
		p.upstream.ServeHTTP(w, r)
		return
	}
	if p.when == AfterWrite {
		p.upstream.ServeHTTP(httptest.NewRecorder(), r)
	}
	p.kill()
	close(p.tripped)
	panic(http.ErrAbortHandler) // No answer.
}

func (p *Proxy) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

// dead reports whether the agent has met its last write.
func (p *Proxy) dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outage == 0 && p.at > 0 && len(p.writes) >= p.at
}

// reasons are the API server's words for a status.
var reasons = map[int]string{http.StatusInternalServerError: "InternalError", http.StatusServiceUnavailable: "ServiceUnavailable"}

// refuse returns the status that a write is refused with in an outage, and 0 when there is none.
func (p *Proxy) refuse(r *http.Request) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outage == 0 || len(p.writes)+1 < p.at {
		return 0
	}
	if len(p.writes) < p.at {
		p.writes = append(p.writes, r.Method+" "+r.URL.Path)
	}
	if p.refused++; p.refused == patience {
		close(p.tripped)
	}
	return p.outage
}

// begin counts a write. It reports whether this is the one to die at, and whether it may be answered at all.
func (p *Proxy) begin(r *http.Request) (fatal, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at > 0 && len(p.writes) >= p.at {
		return false, false
	}
	p.inFlight++
	p.writes = append(p.writes, r.Method+" "+r.URL.Path)
	if p.notice != nil {
		p.notice()
	}
	return len(p.writes) == p.at, true
}

func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	p.landed.Broadcast()
}

func isWrite(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	if r.URL.Query().Has("dryRun") {
		return false
	}
	for _, beside := range []string{"/events", "/leases", "/apis/authorization.k8s.io/"} {
		if strings.Contains(r.URL.Path, beside) {
			return false
		}
	}
	return true
}
