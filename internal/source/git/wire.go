package git

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/cleat-dev/cleat/internal/source"
)

// errProtocol: the server does not speak Git's protocol as it is written down (gitprotocol-pack(5)).
var errProtocol = errors.New("the server does not follow the Git protocol")

// advertisement is the part of a server's list of refs that somebody asked for.
type advertisement struct {
	refs   map[string]advertised // by full name
	caps   map[string]bool
	listed int // refs in the list, asked for or not
}

// advertised is what a ref points to, and the commit it comes down to: for an annotated tag these differ, and a server
// gives out only the former on request.
type advertised struct{ object, commit plumbing.Hash }

// skipService reads the line with which smart HTTP begins.
func skipService(r io.Reader) error {
	s := pktline.NewScanner(r)
	if !s.Scan() || !bytes.HasPrefix(s.Bytes(), []byte("# service="+uploadPack)) {
		return scanError(s)
	}
	if !s.Scan() || len(s.Bytes()) != 0 {
		return scanError(s)
	}
	return nil
}

// readAdvertisement reads the list up to its end and keeps the refs that keep accepts. What it holds in memory is thus
// bounded by what is asked for, and not by what a server sends.
func readAdvertisement(r io.Reader, keep func(name string) bool) (*advertisement, error) {
	a := &advertisement{refs: map[string]advertised{}, caps: map[string]bool{}}
	s := pktline.NewScanner(r)
	for first := true; s.Scan(); first = false {
		line := bytes.TrimSuffix(s.Bytes(), []byte("\n"))
		if len(line) == 0 {
			return a, nil
		}
		if first {
			var caps []byte
			line, caps, _ = bytes.Cut(line, []byte{0})
			for _, c := range strings.Fields(string(caps)) {
				a.caps[c] = true
			}
		}
		if bytes.HasPrefix(line, []byte("shallow ")) {
			continue // the server's own repository is shallow, which is its affair
		}
		if err := a.add(string(line), keep); err != nil {
			return nil, err
		}
	}
	return nil, scanError(s)
}

// add takes one line "<hash> <name>". A name with ^{} gives the commit of the annotated tag in the line before it.
func (a *advertisement) add(line string, keep func(string) bool) error {
	hex, name, ok := strings.Cut(line, " ")
	if !ok || !plumbing.IsHash(hex) {
		return fmt.Errorf("%w: %q is no line of a list of refs", errProtocol, source.OneLine(line))
	}
	if name == "capabilities^{}" {
		return nil // stands in for a ref in the list of an empty repository
	}
	a.listed++
	name, peeled := strings.CutSuffix(name, "^{}")
	if checkRefName(name) != nil || !keep(name) {
		return nil //nolint:nilerr // nobody can have asked for it
	}
	hash := plumbing.NewHash(hex)
	if tag, ok := a.refs[name]; ok && peeled {
		a.refs[name] = advertised{tag.object, hash}
	} else if !peeled {
		a.refs[name] = advertised{hash, hash}
	}
	return nil
}

func scanError(s *pktline.Scanner) error {
	switch err := s.Err(); {
	case err == nil:
		return fmt.Errorf("%w: the answer ends early: %w", errProtocol, io.EOF)
	case errors.Is(err, pktline.ErrInvalidPktLen):
		return fmt.Errorf("%w: %w", errProtocol, err)
	default:
		return err
	}
}

// packRequest is what is asked of git-upload-pack.
type packRequest struct {
	wants []plumbing.Hash
	// haves are commits of which every object of their tree is here; they are the ends of shallow histories.
	haves []plumbing.Hash
	// shallow asks for the commits alone, without those before them.
	shallow bool
}

// encode writes the request with those capabilities that the server has.
//
// thin-pack does more than it says: only with it does git-upload-pack leave out, for a shallow fetch, the objects that the
// haves bring; without it every fetch sends the whole tree.
func (p packRequest) encode(caps map[string]bool) ([]byte, error) {
	var use []string
	for _, c := range []string{"multi_ack_detailed", "side-band-64k", "thin-pack", "ofs-delta", "no-progress", "shallow"} {
		if caps[c] {
			use = append(use, c)
		}
	}
	use = append(use, "agent="+strings.ReplaceAll(userAgent, " ", "-"))

	var buf bytes.Buffer
	e := pktline.NewEncoder(&buf)
	var errs []error
	for i, want := range p.wants {
		if i == 0 {
			errs = append(errs, e.Encodef("want %s %s\n", want, strings.Join(use, " ")))
		} else {
			errs = append(errs, e.Encodef("want %s\n", want))
		}
	}
	if p.shallow {
		for _, have := range p.haves {
			errs = append(errs, e.Encodef("shallow %s\n", have))
		}
		errs = append(errs, e.EncodeString("deepen 1\n"))
	}
	errs = append(errs, e.Flush())
	for _, have := range p.haves {
		errs = append(errs, e.Encodef("have %s\n", have))
	}
	errs = append(errs, e.EncodeString("done\n"))
	return buf.Bytes(), errors.Join(errs...)
}

// readAnswer reads what comes before the pack and returns a reader of the pack.
func (p packRequest) readAnswer(r io.Reader, caps map[string]bool) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	s := pktline.NewScanner(buffered)
	if p.shallow {
		if err := skipShallow(s); err != nil {
			return nil, err
		}
	}
	if err := skipAcknowledgements(s); err != nil {
		return nil, err
	}
	if caps["side-band-64k"] {
		return sideband.NewDemuxer(sideband.Sideband64k, buffered), nil
	}
	return buffered, nil
}

// skipShallow reads which commits the server cut off; they are those that were asked for.
func skipShallow(s *pktline.Scanner) error {
	for s.Scan() {
		switch line := s.Bytes(); {
		case len(line) == 0:
			return nil
		case bytes.HasPrefix(line, []byte("shallow ")), bytes.HasPrefix(line, []byte("unshallow ")):
			continue
		default:
			return fmt.Errorf("%w: %q among shallow commits", errProtocol, source.OneLine(string(line)))
		}
	}
	return scanError(s)
}

// skipAcknowledgements reads which haves the server knows. The last line is NAK, or an ACK without a further word.
func skipAcknowledgements(s *pktline.Scanner) error {
	for s.Scan() {
		words := strings.Fields(string(s.Bytes()))
		switch {
		case len(words) == 1 && words[0] == "NAK":
			return nil
		case len(words) == 2 && words[0] == "ACK":
			return nil
		case len(words) == 3 && words[0] == "ACK":
			continue
		default:
			return fmt.Errorf("%w: %q instead of an acknowledgement", errProtocol, source.OneLine(string(s.Bytes())))
		}
	}
	return scanError(s)
}
