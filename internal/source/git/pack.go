package git

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// Limits bound what a server can make the agent receive, hold and write.
type Limits struct {
	RefBytes    int64 // the list of refs; a million of them is about 64 MiB
	PackBytes   int64 // one pack as it is sent
	Objects     int   // objects in one pack
	ObjectBytes int64 // one object, unpacked; it is held in memory
	TotalBytes  int64 // all objects of a pack, unpacked
}

// DefaultLimits fit the largest repositories that people keep manifests in, with room.
var DefaultLimits = Limits{RefBytes: 64 << 20, PackBytes: 2 << 30, Objects: 4 << 20, ObjectBytes: 256 << 20, TotalBytes: 16 << 30}

// errMirror: the mirror on disk does not have what it should, so it is thrown away.
var errMirror = errors.New("the mirror is damaged")

// receivePack writes the pack to a file, all that the network has a part in.
func receivePack(f *os.File, r io.Reader) error {
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// checkPack reads a pack from beginning to end and adds up what it would unpack to, before anything unpacks it. A delta of a
// few bytes may say that it makes a gigabyte, so its stated result counts.
func (l Limits) checkPack(ctx context.Context, f *os.File) error {
	s := packfile.NewScanner(f)
	_, count, err := s.Header()
	if err != nil {
		return err
	}
	if int64(count) > int64(l.Objects) {
		return fmt.Errorf("%w: a pack of more than %d objects", source.ErrLimit, l.Objects)
	}
	var total int64
	for range count {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, err := unpackedSize(s)
		if err != nil {
			return err
		}
		if size < 0 || size > l.ObjectBytes {
			return fmt.Errorf("%w: an object in the repository is larger than %d bytes", source.ErrLimit, l.ObjectBytes)
		}
		if total += size; total > l.TotalBytes {
			return fmt.Errorf("%w: the objects of a pack add up to more than %d bytes", source.ErrLimit, l.TotalBytes)
		}
	}
	if _, err := s.Checksum(); err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

func unpackedSize(s *packfile.Scanner) (int64, error) {
	h, err := s.NextObjectHeader()
	if err != nil {
		return 0, err
	}
	start := &head{}
	if _, _, err := s.NextObject(start); err != nil {
		return 0, err
	}
	if !h.Type.IsDelta() {
		return h.Length, nil
	}
	// A delta begins with the sizes of its base and of its result, as variable-length numbers.
	r := bytes.NewReader(start.bytes)
	if _, err := binary.ReadUvarint(r); err != nil {
		return 0, packfile.ErrMalformedPackFile
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, packfile.ErrMalformedPackFile
	}
	return max(int64(size), h.Length), nil
}

// head keeps the first bytes that are written to it.
type head struct{ bytes []byte }

func (h *head) Write(p []byte) (int, error) {
	if room := 2*binary.MaxVarintLen64 - len(h.bytes); room > 0 {
		h.bytes = append(h.bytes, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// looseObjects hides that a storage can take packs as they are: a pack that leans on objects which are here already is not
// complete in itself, so its objects are stored one by one.
type looseObjects struct{ storer.EncodedObjectStorer }

// unpack stores the objects of a checked pack.
func unpack(s *mirrorStorage, f *os.File, leaning bool) error {
	if !leaning {
		return packfile.WritePackfileToObjectStorage(s, f)
	}
	parser, err := packfile.NewParserWithStorage(packfile.NewScanner(f), looseObjects{s})
	if err != nil {
		return err
	}
	_, err = parser.Parse()
	return err
}

// damaged reports whether err, from reading or unpacking objects, means that the mirror is of no more use. Everything does
// that is not known to have another cause.
func damaged(err error) bool {
	switch {
	case err == nil, errors.Is(err, errNetwork), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, source.ErrLimit), errors.Is(err, os.ErrPermission), artifact.IsFull(err):
		return false
	case errors.Is(err, plumbing.ErrObjectNotFound), errors.Is(err, errMirror), errors.Is(err, packfile.ErrMalformedPackFile):
		return true
	}
	return true
}
