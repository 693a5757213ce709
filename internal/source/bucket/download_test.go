package bucket

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/cleat-dev/cleat/internal/source"
)

// fragile is a storage whose library has a bug.
type fragile struct{ storage }

func (fragile) open(context.Context, Object) (io.ReadCloser, error) { panic("a bug") }

func TestPanicsOfDownloads(t *testing.T) {
	err := download(t.Context(), fragile{}, []Object{{Key: "a"}, {Key: "b"}}, func(Object, io.Reader) error { return nil })
	if !errors.Is(err, source.ErrPanic) {
		t.Errorf("error is %v", err)
	}
}
