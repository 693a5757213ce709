package webhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/time/rate"
)

// endless is a body without an end, which counts what is read of it.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += int64(len(p))
	return len(p), nil
}

// TestA34_Bodies: whatever the body is, the answer is a 4xx, what is read of it is bounded, and nothing is done (faults.md A34).
func TestA34_Bodies(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	if _, err := io.Copy(zip, bytes.NewReader(make([]byte, 32<<20))); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	nested := func(depth int) string {
		return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + "}"
	}
	for name, test := range map[string]struct {
		body   string
		header map[string]string
		status int
	}{
		"one byte":              {body: "{", status: 400},
		"nothing":               {body: "", status: 400},
		"no JSON":               {body: "push", status: 400},
		"JSON of another kind":  {body: `["a"]`, status: 400},
		"null":                  {body: `null`, status: 400},
		"nested deeply":         {body: strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000), status: 400},
		"lists nested deeply":   {body: `{"a":` + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + "}", status: 400},
		"a million lists":       {body: `{"a":[` + strings.Repeat("[],", maxBody/3-10) + "[]]}", status: 400},
		"nested too deeply":     {body: nested(maxDepth + 1), status: 400},
		"as deep as is allowed": {body: nested(maxDepth), status: 200},
		"one byte too many":     {body: `{"a":"` + strings.Repeat("a", maxBody-7) + `"}`, status: 413},
		"as much as is allowed": {body: `{"a":"` + strings.Repeat("a", maxBody-8) + `"}`, status: 200},
		"a gzip bomb":           {body: bomb.String(), header: map[string]string{"Content-Encoding": "gzip"}, status: 415},
		"gzip under no name":    {body: bomb.String(), status: 400},
		"two documents":         {body: `{"a":1}{"b":1}`, status: 400},
		"text that is no UTF-8": {body: "{\"a\":\"\xff\"", status: 400},
		"a huge number":         {body: `{"a":1` + strings.Repeat("0", 1_000_000) + `}`, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			w := newIdleWorld(t)
			r := newReceiver("generic")
			r.Spec.ResourceFilter = "req.a != ''" // so that the body is decoded
			header := map[string]string{"Content-Type": jsonType}
			for key, value := range test.header {
				header[key] = value
			}
			status, text := w.do(post(w.add(r), []byte(test.body), header))
			if status != test.status || (status == 200) != (len(w.jobs) == 1) {
				t.Errorf("%d %s, %d acted on", status, text, len(w.jobs))
			}
			if strings.Contains(text, "push") {
				t.Errorf("the answer repeats the payload: %s", text)
			}
			for len(w.jobs) > 0 {
				(<-w.jobs).done()
			}
			if !w.held.TryAcquire(maxHeld) {
				t.Error("the memory of the payload was not given back")
			}
		})
	}
}

// TestA34_Endless: 10 GB are refused for what the header says of them, endless chunks when they are too many.
func TestA34_Endless(t *testing.T) {
	for _, kind := range []string{"generic", "github", "generic-hmac", "dockerhub", "nexus", "cdevents"} {
		w := newIdleWorld(t)
		path := w.add(newReceiver(kind))
		announced, chunked := &endless{}, &endless{}
		header := map[string]string{"Content-Type": jsonType, "X-Signature": "sha256=00", "X-Hub-Signature-256": "sha256=00", "X-Nexus-Webhook-Signature": "00"}
		if status, _ := w.do(call{path: path, body: announced, length: 10 << 30, header: header}); status != http.StatusRequestEntityTooLarge || announced.read != 0 {
			t.Errorf("%s, 10 GB: %d, %d bytes read", kind, status, announced.read)
		}
		if status, _ := w.do(call{path: path, body: chunked, length: -1, header: header}); status != http.StatusRequestEntityTooLarge || chunked.read > maxBody+64<<10 {
			t.Errorf("%s, endless: %d, %d bytes read", kind, status, chunked.read)
		}
		if len(w.jobs) != 0 {
			t.Errorf("%s: acted on", kind)
		}
	}
}

// TestA34_ProofBeforeBody: where the header alone shows who calls, nothing of a stranger's body is read.
func TestA34_ProofBeforeBody(t *testing.T) {
	for _, kind := range []string{"gitlab", "harbor", "gcr", "generic-oidc"} {
		w := newIdleWorld(t)
		r := newReceiver(kind)
		if kind == "generic-oidc" {
			r.Spec.OIDCProviders = []notificationv1.OIDCProvider{{IssuerURL: "https://issuer.example.com", Validations: []notificationv1.OIDCValidation{{Expression: "true"}}}}
		}
		body := &endless{}
		status, _ := w.do(call{path: w.add(r), body: body, length: -1, header: map[string]string{"X-Gitlab-Token": "x", "Authorization": "Bearer x"}})
		if status != http.StatusBadRequest || body.read != 0 {
			t.Errorf("%s: %d, %d bytes read", kind, status, body.read)
		}
	}
}

// TestA34_SealBeforeParsing: nothing of a body is parsed before its signature is known to be right: what is forged is refused as such,
// even if it is no JSON.
func TestA34_SealBeforeParsing(t *testing.T) {
	for _, name := range []string{"github", "generic-hmac sha256", "bitbucket", "nexus"} {
		w, s := newIdleWorld(t), senders[name]
		r := newReceiver(s.kind)
		r.Spec.ResourceFilter = "req.a != ''"
		body := []byte(strings.Repeat("[", 100_000))
		status, text := w.do(post(w.add(r), body, s.header(body, "another")))
		if status != http.StatusBadRequest || !strings.Contains(text, errForged.Error()) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
}

// TestA34_MemoryIsShared: payloads that have begun to come hold no more than maxHeld together; who comes when all is taken is
// told to come later.
func TestA34_MemoryIsShared(t *testing.T) {
	w := newIdleWorld(t)
	path := w.add(newReceiver("generic"))
	if !w.held.TryAcquire(maxHeld - maxBody + 1) {
		t.Fatal("it is taken already")
	}
	if status, _ := w.do(call{path: path, body: strings.NewReader("{}"), length: -1}); status != http.StatusServiceUnavailable {
		t.Errorf("%d", status)
	}
	if status, text := w.do(post(path, []byte("{}"), nil)); status != http.StatusOK {
		t.Errorf("a small one: %d %s", status, text)
	}
}

// TestA34_Replay: what was delivered once is refused when it comes again, whoever sends it and whatever he writes into the headers,
// and costs him and not the sender; a minute later it is taken once more, as when the sender is told to deliver it again.
func TestA34_Replay(t *testing.T) {
	for name, delivery := range map[string]string{"github": "X-GitHub-Delivery", "gitea as github": "X-GitHub-Delivery", "bitbucket": "X-Request-Id", "nexus": "X-Nexus-Webhook-Delivery"} {
		w, s := newIdleWorld(t), senders[name]
		w.hooks = newBuckets(pace{0, 3}) // what is refused takes nothing of what is there for genuine hooks
		clock := time.Now()
		w.replays.now = func() time.Time { return clock }
		path, body := w.add(newReceiver(s.kind)), payload(t, s.payload)
		genuine := s.header(body, token)
		genuine[delivery] = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
		from := func(who string, body []byte, header map[string]string) int {
			c := post(path, body, header)
			c.from = who
			status, _ := w.do(c)
			return status
		}
		if status := from("192.0.2.1:1", body, genuine); status != http.StatusOK {
			t.Fatalf("%s: %d", name, status)
		}
		answers := map[int]int{}
		for i := range 10 * defaultPaces().failure.burst {
			header := maps.Clone(genuine)
			switch i % 3 {
			case 0:
				delete(header, delivery)
			case 1:
				header[delivery] = fmt.Sprint(i)
			}
			for key, value := range header {
				if strings.Contains(key, "Signature") && i%2 == 0 {
					kind, sum, found := strings.Cut(value, "=")
					if header[key] = kind + "=" + strings.ToUpper(sum); !found {
						header[key] = strings.ToUpper(value)
					}
				}
			}
			answers[from("192.0.2.66:1", body, header)]++
		}
		if answers[409] < defaultPaces().failure.burst || answers[429] == 0 || answers[409]+answers[429] != 10*defaultPaces().failure.burst {
			t.Errorf("%s: replays: %v", name, answers)
		}
		next := bytes.ReplaceAll(body, []byte("shop"), []byte("shap"))
		if status := from("192.0.2.1:1", next, s.header(next, token)); status != http.StatusOK {
			t.Errorf("%s: the next hook: %d", name, status)
		}
		clock = clock.Add(replayApart)
		if status := from("192.0.2.1:1", body, genuine); status != http.StatusOK {
			t.Errorf("%s: delivered again a minute later: %d", name, status)
		}
		if status := from("192.0.2.1:1", body, genuine); status != http.StatusConflict {
			t.Errorf("%s: and again: %d", name, status)
		}
		if len(w.jobs) != 3 {
			t.Errorf("%s: %d are acted on", name, len(w.jobs))
		}
	}
}

// TestA34_NotTakenIsNoReplay: what the agent had no room for may come again at once.
func TestA34_NotTakenIsNoReplay(t *testing.T) {
	w, s := newIdleWorld(t), senders["github"]
	path, body := w.add(newReceiver(s.kind)), payload(t, s.payload)
	w.jobs = make(chan job)
	if status, _ := w.do(post(path, body, s.header(body, token))); status != http.StatusServiceUnavailable {
		t.Fatalf("%d", status)
	}
	w.jobs = make(chan job, 1)
	if status, text := w.do(post(path, body, s.header(body, token))); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// TestA34_ReplayIsBounded: where different things may be told in the same words, the same is taken again; all that it can do is to
// have a source looked at once more, at most once a second, and the Receiver's pace bounds it.
func TestA34_ReplayIsBounded(t *testing.T) {
	w := newWorld(t, repository("demo", "shop", nil))
	path, body := w.add(newReceiver("generic-hmac")), payload(t, "generic.json")
	header := senders["generic-hmac sha256"].header(body, token)
	answers := map[int]int{}
	for range 2 * defaultPaces().hook.burst {
		status, _ := w.do(post(path, body, header))
		answers[status]++
		if status == http.StatusServiceUnavailable {
			t.Fatal("more hooks wait than are acted on")
		}
	}
	if answers[200] == 0 || answers[429] == 0 || answers[200]+answers[429] != 2*defaultPaces().hook.burst {
		t.Errorf("answers: %v", answers)
	}
	w.wrote(1)
	if late := len(w.written); late > 2 {
		t.Errorf("%d requests in one burst", late+1)
	}
}

// TestA34_ReplaysAreForgotten: what is remembered of payloads has an end.
func TestA34_ReplaysAreForgotten(t *testing.T) {
	r, clock := newReplays(), time.Now()
	r.now = func() time.Time { return clock }
	for i := range 2 * maxTaken {
		r.remember(fmt.Sprint(i))
	}
	if len(r.taken) != maxTaken || len(r.oldest) != maxTaken || !r.seen(fmt.Sprint(2*maxTaken-1)) || r.seen("0") {
		t.Errorf("%d are remembered, in a queue of %d", len(r.taken), len(r.oldest))
	}
	clock = clock.Add(replayApart)
	if r.seen(fmt.Sprint(2*maxTaken-1)) || len(r.taken) != 0 || len(r.oldest) != 0 {
		t.Errorf("%d are remembered, in a queue of %d", len(r.taken), len(r.oldest))
	}
}

// TestA35_UnknownPaths: a path that is not known costs no reading, no memory and no other caller anything (faults.md A35).
func TestA35_UnknownPaths(t *testing.T) {
	w := newIdleWorld(t)
	w.strangers = rate.NewLimiter(0, 10*defaultPaces().miss.burst) // is not used up by one address
	path, body := w.add(newReceiver("generic-hmac")), payload(t, "generic.json")
	answers := map[int]int{}
	for i := range 10_000 {
		unread := &endless{}
		status, _ := w.do(call{path: fmt.Sprintf("/hook/%064x", i), from: "192.0.2.1:1", body: unread, length: -1})
		answers[status]++
		if unread.read != 0 {
			t.Fatal("the body was read")
		}
	}
	if answers[404] < defaultPaces().miss.burst || answers[429] < 5000 || answers[404]+answers[429] != 10_000 {
		t.Errorf("answers: %v", answers)
	}
	if status, _ := w.do(call{path: "/hook/x", from: "192.0.2.9:1"}); status != http.StatusNotFound {
		t.Errorf("another address: %d", status)
	}
	c := post(path, body, senders["generic-hmac sha256"].header(body, token))
	c.from = "192.0.2.1:2" // behind the same proxy, say
	if status, text := w.do(c); status != http.StatusOK {
		t.Errorf("a genuine hook from the same address: %d %s", status, text)
	}
	for i := range 3 * maxKnown {
		w.do(call{method: http.MethodGet, path: "/", from: fmt.Sprintf("198.51.%d.%d:1", i/256%256, i%256)})
		w.do(call{method: http.MethodGet, path: "/", from: fmt.Sprintf("[2001:db8:%x::1]:1", i)})
	}
	if len(w.misses.by) > maxKnown || w.misses.recent.Len() != len(w.misses.by) {
		t.Errorf("%d callers are remembered", len(w.misses.by))
	}
}

// TestA35_ManyStrangers: many addresses together miss no more often than at a pace before they are told to go away.
func TestA35_ManyStrangers(t *testing.T) {
	w := newIdleWorld(t)
	path := w.add(newReceiver("generic"))
	answers := map[int]int{}
	for i := range 10_000 {
		status, _ := w.do(call{path: fmt.Sprintf("/hook/%064x", i), from: fmt.Sprintf("198.51.%d.%d:1", i/256, i%256)})
		answers[status]++
	}
	if p := defaultPaces().strangers; answers[404] < p.burst || answers[429] < 5000 || answers[404]+answers[429] != 10_000 {
		t.Errorf("answers: %v", answers)
	}
	if status, text := w.do(post(path, nil, nil)); status != http.StatusOK {
		t.Errorf("a genuine hook: %d %s", status, text)
	}
}

// TestA35_NewConnections: of 10,000 connections in a second or two, each for one request to a path that there is not, only those are
// read that the pace of one address lets in; the rest is closed, and who is connected already is answered.
func TestA35_NewConnections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newIdleWorld(t)
	path := w.add(newReceiver("generic"))
	var read atomic.Int64
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		if req.URL.Path != path {
			read.Add(1)
		}
		w.ServeHTTP(res, req)
	})}
	served := make(chan error, 1)
	began := time.Now()
	go func() { served <- server.Serve(Guard(listener)) }()
	url := "http://" + listener.Addr().String()
	kept := &http.Client{Transport: &http.Transport{}}
	ask := func() (int, error) {
		res, err := kept.Post(url+path, jsonType, strings.NewReader("{}"))
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, errors.Join(err, res.Body.Close())
	}
	if status, err := ask(); status != http.StatusOK || err != nil {
		t.Fatalf("before: %d, %v", status, err)
	}
	const callers, each = 20, 500
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				conn, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					continue // the queue of the listener is full
				}
				_, _ = io.WriteString(conn, "POST /hook/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") // it may be closed already
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
	}
	if status, err := ask(); status != http.StatusOK || err != nil {
		t.Errorf("meanwhile: %d, %v", status, err)
	}
	all.Wait()
	took := time.Since(began)
	if status, err := ask(); status != http.StatusOK || err != nil {
		t.Errorf("after: %d, %v", status, err)
	}
	p := defaultPaces().connection
	if n, most := read.Load(), int64(p.burst)+int64(took.Seconds()*float64(p.rate))+1; n > most || n < int64(p.burst)/2 {
		t.Errorf("%d requests were read in %s, at most %d are to be", n, took, most)
	}
	kept.CloseIdleConnections()
	server.Close()
	<-served
}

// TestA35_Failures: who fails again and again is no longer listened to, for that path; others are.
func TestA35_Failures(t *testing.T) {
	w := newIdleWorld(t)
	path, body := w.add(newReceiver("github")), payload(t, "github-push.json")
	header := senders["github"].header(body, token)
	forged := senders["github"].header(body, "another")
	var refused bool
	for range 2 * defaultPaces().failure.burst {
		c := post(path, body, forged)
		c.from = "192.0.2.1:1"
		if status, _ := w.do(c); status == http.StatusTooManyRequests {
			refused = true
			unread := &endless{}
			w.do(call{path: path, from: "192.0.2.1:1", body: unread, length: -1, header: forged})
			if unread.read != 0 {
				t.Error("the body was read")
			}
			break
		}
	}
	if !refused {
		t.Error("never refused")
	}
	c := post(path, body, header)
	c.from = "192.0.2.2:1"
	if status, text := w.do(c); status != http.StatusOK {
		t.Errorf("another caller: %d %s", status, text)
	}
}

// TestA35_Caller: a caller is an address, or a network of IPv6; what a proxy may say of it is not believed.
func TestA35_Caller(t *testing.T) {
	for _, same := range [][2]string{
		{"192.0.2.1:1", "192.0.2.1:2"}, {"[2001:db8::1]:1", "[2001:db8::ffff:1]:2"}, {"[::ffff:192.0.2.1]:1", "192.0.2.1:9"},
	} {
		if caller(same[0]) != caller(same[1]) {
			t.Errorf("%v are two callers", same)
		}
	}
	for _, differ := range [][2]string{{"192.0.2.1:1", "192.0.2.2:1"}, {"[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"}} {
		if caller(differ[0]) == caller(differ[1]) {
			t.Errorf("%v are one caller", differ)
		}
	}
}

// TestA35_Connections: there are only so many connections, in all and a second of one address, and one that ends makes room.
func TestA35_Connections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{Listener: listener, pace: newBuckets(pace{0, 4}), everyone: rate.NewLimiter(rate.Inf, 0), all: 2, each: 3, open: map[string]int{}}
	in, ended := make(chan net.Conn), make(chan error, 1)
	go func() {
		for {
			conn, err := g.Accept()
			if err != nil {
				ended <- err
				return
			}
			in <- conn
		}
	}()
	// open returns the other end of a new connection; nil when it was closed instead.
	open := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		refused := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			refused <- err
		}()
		select {
		case accepted := <-in:
			return accepted
		case <-refused:
			return nil
		}
	}
	first, second := open(), open()
	if first == nil || second == nil || open() != nil {
		t.Fatal("two have room, and not three")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	fourth := open()
	if fourth == nil {
		t.Fatal("there was no room again")
	}
	fourth.Close()
	if open() != nil {
		t.Error("too many of one address were let in")
	}
	listener.Close()
	<-ended
}

// TestA35_RoomForOthers: one caller cannot take all connections.
func TestA35_RoomForOthers(t *testing.T) {
	g := Guard(nil).(*guard)
	for range 2 * maxConnections {
		g.enter("one")
	}
	if !g.enter("another") {
		t.Error("there is no room for another")
	}
	for range maxOfOne {
		g.leave("one")
	}
	g.leave("another")
	if g.total != 0 || len(g.open) != 0 {
		t.Errorf("%d connections are counted, of %v", g.total, g.open)
	}
}

// TestA35_Overall: hooks of all callers to paths that are known are judged at a pace, and what is too much is told to come later.
func TestA35_Overall(t *testing.T) {
	w := newIdleWorld(t)
	w.overall = rate.NewLimiter(0, 2)
	path := w.add(newReceiver("generic"))
	for i, want := range []int{200, 200, 503} {
		unread := &endless{}
		c := call{path: path, from: fmt.Sprintf("192.0.2.%d:1", i), body: io.LimitReader(unread, 10), length: 10}
		if status, _ := w.do(c); status != want || want == 503 && unread.read != 0 {
			t.Errorf("hook %d: %d, %d bytes read", i, status, unread.read)
		}
	}
}

// TestA35_Everyone: connections of any number of addresses are let in at a pace.
func TestA35_Everyone(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := Guard(listener).(*guard)
	if got, want := g.everyone.Burst(), defaultPaces().connections.burst; got != want || g.everyone.Limit() != defaultPaces().connections.rate {
		t.Errorf("at a pace of %v, %d at once", g.everyone.Limit(), got)
	}
	g.everyone = rate.NewLimiter(0, 1)
	accepted, ended := make(chan net.Conn, 2), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := g.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	for i := range 2 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == 0 {
			<-accepted // and it stays open
			continue
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("one too many is let in")
		}
	}
	listener.Close()
	<-ended
}

// TestA34_ConstantTime: nothing that a caller must know is compared in a time that tells how much of it is right. It looks at the code,
// since a difference of nanoseconds cannot be measured reliably: tokens and signatures are compared by same and hmac.Equal alone.
func TestA34_ConstantTime(t *testing.T) {
	secrets := []string{"token", "given", "signature", "sum", "email"}
	uses := map[string]bool{}
	for _, file := range []string{"sender.go", "server.go", "oidc.go", "secret.go", "receivers.go", "index.go"} {
		tree, err := parser.ParseFile(gotoken.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		secret := func(e ast.Node) (found bool) {
			ast.Inspect(e, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && name(call.Fun) == "len" {
					return false
				}
				id, ok := n.(*ast.Ident)
				found = found || ok && slices.Contains(secrets, id.Name)
				return true
			})
			return found
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				_, literal := n.Y.(*ast.BasicLit) // "" is no secret
				if (n.Op == gotoken.EQL || n.Op == gotoken.NEQ) && !literal && (secret(n.X) || secret(n.Y)) && name(n.Y) != "nil" {
					t.Errorf("%s: %s %s %s", file, name(n.X), n.Op, name(n.Y))
				}
			case *ast.CallExpr:
				uses[name(n.Fun)] = true
				if slices.Contains([]string{"bytes.Equal", "bytes.Compare", "strings.Compare", "strings.EqualFold", "bytes.HasPrefix", "slices.Equal"}, name(n.Fun)) && slices.ContainsFunc(n.Args, func(e ast.Expr) bool { return secret(e) }) {
					t.Errorf("%s: %s of a secret", file, name(n.Fun))
				}
			}
			return true
		})
	}
	if !uses["subtle.ConstantTimeCompare"] || !uses["hmac.Equal"] {
		t.Error("nothing is compared in constant time")
	}
}

// name is an expression as far as it is a name.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return name(e.X) + "." + e.Sel.Name
	}
	return "…"
}

// TestA35_Penance: who asks for nothing again and again waits for his answers, and when too many wait, his connection is closed.
func TestA35_Penance(t *testing.T) {
	w := newIdleWorld(t)
	w.misses, w.waiting = newBuckets(pace{0, 0}), make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan int, 1)
	go func() {
		res := httptest.NewRecorder()
		w.ServeHTTP(res, httptest.NewRequestWithContext(ctx, http.MethodPost, "/hook/x", nil))
		answered <- res.Code
	}()
	for len(w.waiting) == 0 {
		time.Sleep(time.Millisecond)
	}
	res := httptest.NewRecorder()
	w.ServeHTTP(res, httptest.NewRequest(http.MethodPost, "/hook/x", nil))
	if res.Code != http.StatusTooManyRequests || res.Header().Get("Connection") != "close" {
		t.Errorf("%d, %v", res.Code, res.Header())
	}
	cancel() // he goes
	if status := <-answered; status != http.StatusTooManyRequests || len(w.waiting) != 0 {
		t.Errorf("%d, and %d wait", status, len(w.waiting))
	}
}

// TestA37_NothingIsFetched: a payload may hold any URL in any field, and nothing of it is asked (faults.md A37).
func TestA37_NothingIsFetched(t *testing.T) {
	asked := atomic.Bool{}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	defer server.Close()
	for name, s := range senders {
		w := newWorld(t, repository("demo", "shop", nil)) // whose way to issuers fails the test
		body := payload(t, s.payload)
		for _, host := range []string{"https://registry.hub.docker.com", "https://github.example.com", "https://git.example.com", "https://gitlab.example.com", "https://quay.io", "quay.io", "harbor.example.com", "/event/source/123", "registry.example.com"} {
			body = bytes.ReplaceAll(body, []byte(host), []byte(server.URL))
		}
		if status, text := w.do(post(w.add(newReceiver(s.kind)), body, s.header(body, token))); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, text)
		}
		w.wrote(1)
	}
	if asked.Load() {
		t.Error("a URL of a payload was asked")
	}
}

// TestA43_Labels: no caller makes new series, whatever method or path he invents (faults.md A43).
func TestA43_Labels(t *testing.T) {
	w := newIdleWorld(t)
	registry := prometheus.NewRegistry()
	metered := Metered(registry, "gotk_receiver_http_", "/hook/", http.HandlerFunc(w.serve))
	for i := range 100 {
		metered.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(fmt.Sprintf("X%d", i), fmt.Sprintf("/hook/%d", i), nil))
	}
	count, err := testutil.GatherAndCount(registry, "gotk_receiver_http_request_duration_seconds")
	if err != nil || count > 2 { // 404, and 429 when there were too many
		t.Errorf("%d series, %v", count, err)
	}
}

// FuzzPayload: whatever is sent to any type, the answer is one of few, and the same to the same.
func FuzzPayload(f *testing.F) {
	for _, s := range senders {
		f.Add(s.kind, payload(f, s.payload))
	}
	f.Add("gcr", payload(f, "gcr-push.json"))
	f.Add("gcr", []byte(`{"message":{"data":"`+base64.StdEncoding.EncodeToString([]byte(`{"tag":1}`))+`"}}`))
	f.Add("cdevents", []byte(`{"context":{"timestamp":"x"},"subject":{"content":[]}}`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		s, err := senderOf(kind)
		if err != nil {
			return
		}
		h := &hook{sender: s, filtered: true}
		header := http.Header{"Content-Type": {jsonType}}
		first, err := h.unwrap(header, body)
		if err != nil && !errors.Is(err, errPayload) {
			t.Errorf("refused as something else: %v", err)
		}
		second, again := h.unwrap(header, body)
		if (err == nil) != (again == nil) || len(first) != len(second) {
			t.Errorf("first %v, %v, then %v, %v", first, err, second, again)
		}
	})
}

// FuzzSeal: no signature is taken that was not made with the token.
func FuzzSeal(f *testing.F) {
	for _, s := range senders {
		for name, value := range s.header(payload(f, s.payload), "another") {
			f.Add(s.kind, name, value, []byte("{}"))
		}
	}
	f.Fuzz(func(t *testing.T, kind, name, value string, body []byte) {
		s, err := senderOf(kind)
		if err != nil || s.seal == nil {
			return
		}
		header := http.Header{"Content-Type": {jsonType}}
		header.Set(name, value)
		if _, err := s.seal(header, body, []byte(token)); err == nil {
			t.Errorf("%s: %s: %q was taken", kind, name, value)
		}
	})
}
