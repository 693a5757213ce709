package notify

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestA29_SecretsAreToldNobody plants a secret in every place where a Provider of a type may have one, has its service refuse
// the message with an answer that repeats all that it was sent, and looks for it in what is told of that.
func TestA29_SecretsAreToldNobody(t *testing.T) {
	for _, s := range services {
		if s.kind == "pagerduty" {
			s.spec, s.secret = `address: "https://events.pagerduty.com"`, `{token: canary-s3cret}` // a channel is no secret to who reads Providers
		}
		t.Run(s.kind, func(t *testing.T) {
			for _, status := range []int{http.StatusBadRequest, http.StatusServiceUnavailable} {
				server := newEndpoint(t, func(w http.ResponseWriter, r request) {
					http.Error(w, fmt.Sprint(r.Path, r.Query, r.Header, r.Body), status)
				})
				w := newWorld(t, serviceYAML(s.kind, s.spec, s.secret)+newAlert(everything))
				r := w.current()[0]
				err := w.tellOf(server, w.messageOf(r, "error"))
				if err == nil {
					t.Fatal("it is not refused")
				}
				w.report(r, err)
				out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String()
				if strings.Contains(out, canary) {
					t.Errorf("the secret is told: %s", out)
				}
			}
		})
	}
}

// TestA29_UnreachableEndpoints holds the same for the errors of the network, which quote the URL.
func TestA29_UnreachableEndpoints(t *testing.T) {
	for _, address := range []string{
		"http://127.0.0.1:1/canary-s3cret?token=canary-s3cret", "http://user:canary-s3cret@127.0.0.1:1/", "http://canary.invalid/canary-s3cret",
		"http://169.254.169.254/canary-s3cret", "canary-s3cret://x", "http://canary-s3cret%zz/", "http://127.0.0.1:1/\x7fcanary-s3cret",
	} {
		for _, where := range []string{"spec", "secret"} {
			spec, secret := fmt.Sprintf("{type: generic, address: %q}", address), ""
			if where == "secret" {
				spec, secret = "{type: generic, secretRef: {name: sink}}", newSecret(fmt.Sprintf("{address: %q}", address))
			}
			w := newWorld(t, newProvider(spec)+secret+newAlert(everything))
			r := w.current()[0]
			err := w.deliver(t.Context(), sinkKey, w.messageOf(r, "error"))
			if err == nil {
				t.Fatalf("%q is told", address)
			}
			w.report(r, err)
			if out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String(); strings.Contains(out, canary) {
				t.Errorf("%s %q: %s", where, address, out)
			}
		}
	}
}

// TestA18_LinkLocal holds that no Provider leads to where clouds hand out the credentials of the node, by whatever name.
func TestA18_LinkLocal(t *testing.T) {
	for _, spec := range []string{
		`{type: generic, address: "http://169.254.169.254/latest"}`, `{type: generic, address: "http://[fd00:ec2::254]/latest"}`,
		`{type: nats, channel: x, address: "nats://169.254.169.254:80"}`, `{type: slack, address: "http://[::ffff:169.254.169.254]/"}`,
	} {
		w := newWorld(t, newProvider(spec)+newAlert(everything))
		err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
		if err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// TestRedirectsAreNotFollowed holds that what was posted goes nowhere else.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := newEndpoint(t, nil)
	sink := newEndpoint(t, func(w http.ResponseWriter, _ request) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	w.hear(failureNews())
	if got := elsewhere.take(); len(got) > 0 {
		t.Error(got)
	}
	if events := w.events.Words(); len(events) != 1 || !strings.Contains(events[0], "answers 307") {
		t.Errorf("%q", events)
	}
}
