package webhook

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// secret is what a Receiver's Secret holds for it.
type secret struct {
	token []byte
	// email and audience are what a token of Google's must claim; they are only read for type gcr.
	email, audience string
}

// readSecret reads the Secret of a Receiver of a type.
func readSecret(ctx context.Context, from client.Reader, key types.NamespacedName, kind string) (secret, error) {
	var object corev1.Secret
	if err := from.Get(ctx, key, &object); err != nil {
		return secret{}, fmt.Errorf("reading the Secret %s of spec.secretRef: %w", key, err)
	}
	needs := []string{"token"}
	if kind == notificationv1.GCRReceiver {
		needs = append(needs, "email", "audience")
	}
	for _, k := range needs {
		if len(object.Data[k]) == 0 {
			return secret{}, fmt.Errorf("the Secret %s of spec.secretRef has no key %q, which a Receiver of the type %s needs", key, k, kind)
		}
	}
	return secret{token: object.Data["token"], email: string(object.Data["email"]), audience: string(object.Data["audience"])}, nil
}

// secretLife is how long a Secret is believed that was read for a hook. A token that was taken back is refused after that,
// and a flood of hooks reads it no more often.
const secretLife = 10 * time.Second

// secrets reads the Secrets of Receivers for the hooks that come.
type secrets struct {
	reader client.Reader
	now    func() time.Time

	mu   sync.Mutex
	read map[wanted]*reading
}

// wanted is a Secret, and what it must hold.
type wanted struct {
	key  types.NamespacedName
	kind string
}

// reading is a Secret that is being read, or was.
type reading struct {
	at   time.Time
	once func() (secret, error)
}

// of returns what the Secret of a hook holds. Who asks while another is reading waits for the same answer.
func (s *secrets) of(ctx context.Context, h *hook) (secret, error) {
	if h.secret == "" {
		return secret{}, nil
	}
	key, now := types.NamespacedName{Namespace: h.key.Namespace, Name: h.secret}, s.now()
	what := wanted{key, h.kind}
	s.mu.Lock()
	maps.DeleteFunc(s.read, func(_ wanted, r *reading) bool { return now.Sub(r.at) >= secretLife })
	r := s.read[what]
	if r == nil {
		ctx := context.WithoutCancel(ctx) // others will want the answer when this caller has gone
		r = &reading{at: now, once: sync.OnceValues(func() (secret, error) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			return readSecret(ctx, s.reader, key, h.kind)
		})}
		s.read[what] = r
	}
	s.mu.Unlock()
	return r.once()
}

// forget has the Secret of a hook read anew: the Receiver has changed, and may have because the Secret has.
func (s *secrets) forget(h *hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.read, wanted{types.NamespacedName{Namespace: h.key.Namespace, Name: h.secret}, h.kind})
}
