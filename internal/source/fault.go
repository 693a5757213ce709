package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"github.com/cleat-dev/cleat/internal/api"
)

// FetchFault says under which reason an error of a fetch is reported, and what makes it worth trying again; otherwise is
// the reason of an error that has none of its own.
func FetchFault(err error, otherwise string) *api.Fault {
	if f, ok := errors.AsType[*api.Fault](err); ok {
		return f
	}
	f := &api.Fault{Reason: otherwise, Retry: api.RetryBackoff, Err: err}
	busy, isBusy := errors.AsType[*Busy](err)
	switch {
	case errors.Is(err, ErrURL):
		f.Reason, f.Retry = sourcev1.URLInvalidReason, api.RetryNever
	case errors.Is(err, ErrAuthentication), errors.Is(err, ErrProxy):
		f.Reason = sourcev1.AuthenticationFailedReason
	case isBusy:
		f.After = time.Until(busy.until)
	}
	return f
}

// CheckStatus turns the status of an answer into an error, unless it is 200.
func CheckStatus(res *http.Response) error {
	switch code := res.StatusCode; code {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		if wait := retryAfter(res.Header.Get("Retry-After")); code == http.StatusForbidden && wait > 0 {
			return &Busy{code, time.Now().Add(wait)} // GitHub says so of who asks too often
		}
		return fmt.Errorf("%w: the server answers %d, check the Secret of spec.secretRef", ErrAuthentication, code)
	case http.StatusNotFound:
		return errors.New("the server answers 404: it is not there, or these credentials may not read it")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &Busy{code, time.Now().Add(retryAfter(res.Header.Get("Retry-After")))}
	default:
		return fmt.Errorf("the server answers %d", code)
	}
}

// Busy is the error of a server that wants to be left alone for a while.
type Busy struct {
	status int
	until  time.Time
}

func (b *Busy) Error() string {
	if b.status == http.StatusTooManyRequests || b.status == http.StatusForbidden {
		return fmt.Sprintf("the server answers %d: it gets too many requests, use a longer spec.interval and a Receiver", b.status)
	}
	return fmt.Sprintf("the server answers %d: it is overloaded or down for maintenance", b.status)
}

// maxRetryAfter bounds what a server may ask for; after that it is asked again, whatever it said.
const maxRetryAfter = time.Hour

// retryAfter reads the header, which gives seconds or a date.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return min(max(0, time.Duration(min(seconds, 1<<20))*time.Second), maxRetryAfter)
	}
	if date, err := http.ParseTime(header); err == nil {
		return min(max(0, time.Until(date)), maxRetryAfter)
	}
	return 0
}

// Pauses remembers which servers want to be left alone and by whom, so that of a hundred objects on a server one asks in vain
// and not all (faults.md F35). The key is one that Caller makes. The zero value is ready. Its methods may be called
// concurrently.
type Pauses struct {
	mu    sync.Mutex
	until map[string]*Busy
}

// Caller names who asks a server, by a digest of the server and of all that the answer may depend on: credentials, proxy,
// authorities. What is told to one caller counts for nobody else.
func Caller(parts ...any) (string, error) {
	text, err := json.Marshal(parts)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Check returns the error that the server last gave, while it wants to be left alone.
func (p *Pauses) Check(server string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	busy, ok := p.until[server]
	if !ok {
		return nil
	}
	if !time.Now().Before(busy.until) {
		delete(p.until, server)
		return nil
	}
	return busy
}

// Note remembers what came of asking the server.
func (p *Pauses) Note(server string, err error) {
	busy, ok := errors.AsType[*Busy](err)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = map[string]*Busy{}
	}
	// Of a caller who never comes back, with new credentials for instance, nothing else would get rid.
	maps.DeleteFunc(p.until, func(_ string, b *Busy) bool { return !time.Now().Before(b.until) })
	p.until[server] = busy
}
