package source

import (
	"io"

	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// PublishFile makes the bytes that content yields the object's artifact as they are. Like Publish it keeps the time of the
// artifact before where nothing has changed.
func (b Before) PublishFile(store *artifact.Store, file, revision string, content io.Reader) (*meta.Artifact, error) {
	a, err := store.PublishFile(b.object, file, revision, content)
	if err != nil {
		return nil, StoreFault(err)
	}
	return b.keepTime(a), nil
}

// PublishStored does the same with bytes that the store has already. The error wraps artifact.ErrNotFound when it does not.
func (b Before) PublishStored(store *artifact.Store, file, revision, digest string) (*meta.Artifact, error) {
	a, err := store.PublishStored(b.object, file, revision, digest)
	if err != nil {
		return nil, StoreFault(err)
	}
	return b.keepTime(a), nil
}

func (b Before) keepTime(a *meta.Artifact) *meta.Artifact {
	if b.Stored != nil && b.Stored.HasDigest(a.Digest) && b.Stored.HasRevision(a.Revision) {
		a.LastUpdateTime = b.Stored.LastUpdateTime
	}
	return a
}
