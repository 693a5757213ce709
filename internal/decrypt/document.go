package decrypt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	sopsdotenv "github.com/getsops/sops/v3/stores/dotenv"
	sopsini "github.com/getsops/sops/v3/stores/ini"
	sopsjson "github.com/getsops/sops/v3/stores/json"
	sopsyaml "github.com/getsops/sops/v3/stores/yaml"
	yamlv3 "go.yaml.in/yaml/v3"
)

// The bounds of one document. Whoever can write to a source can write its metadata too.
const (
	maxBytes     = 5 << 20 // as Flux has it
	maxGroups    = 16
	maxKeys      = 64 // of all groups together
	maxEncrypted = 64 << 10
	maxPattern   = 1 << 10
	maxTime      = time.Minute // all its keys together
)

// format is how a document is written.
type format string

const (
	formatBinary format = "binary" // in a JSON document, as its "data"
	formatDotenv format = "dotenv"
	formatINI    format = "ini"
	formatJSON   format = "json"
	formatYAML   format = "yaml"
)

// store returns what reads and writes documents of the format.
func (f format) store() sops.Store {
	stores := config.NewStoresConfig()
	switch f {
	case formatDotenv:
		return sopsdotenv.NewStore(&stores.Dotenv)
	case formatINI:
		return sopsini.NewStore(&stores.INI)
	case formatJSON:
		return sopsjson.NewStore(&stores.JSON)
	case formatYAML:
		return sopsyaml.NewStore(&stores.YAML)
	case formatBinary:
		return sopsjson.NewBinaryStore(&stores.JSONBinary)
	}
	panic("no store for the format " + string(f))
}

// formatOf returns the format that a file of that name has, or that a value under a key of that name is wanted in.
func formatOf(name string) format {
	if strings.HasSuffix(name, ".dockerconfigjson") {
		return formatJSON
	}
	switch path.Ext(name) {
	case ".yaml", ".yml":
		return formatYAML
	case ".json":
		return formatJSON
	case ".env":
		return formatDotenv
	case ".ini":
		return formatINI
	}
	return formatBinary
}

// marks are what sops writes into every document of a format, in the order in which they are looked for. What has one need
// not be a document: it may hold one.
var marks = []struct {
	format format
	mark   *regexp.Regexp
}{
	{formatDotenv, regexp.MustCompile(`(?m)^sops_mac=["']?ENC\[`)},
	{formatINI, regexp.MustCompile(`(?m)^\[sops\]\s*$`)},
	{formatJSON, regexp.MustCompile(`"mac"\s*:\s*"ENC\[`)},
	{formatYAML, regexp.MustCompile(`(?m)^\s+["']?mac["']?:\s*["']?ENC\[`)},
}

// detect returns the format of a text that looks like an encrypted document.
func detect(text []byte) (format, bool) {
	if !bytes.Contains(text, []byte("ENC[")) {
		return "", false
	}
	for _, m := range marks {
		if m.mark.Match(text) {
			return m.format, true
		}
	}
	return "", false
}

var (
	// errNoDocument: the text only looks like an encrypted document.
	errNoDocument = errors.New("it is not a SOPS document")
	// errNotEncrypted: a value was not encrypted with the document's data key.
	errNotEncrypted = errors.New("not encrypted with this data key")
	// errMAC: the document is not as it was when it was encrypted.
	errMAC = errors.New("the MAC does not match: something in the file was changed, added or removed after it was encrypted; encrypt it again with sops")
)

// open decrypts a document that is written as in and returns it written as out, without its metadata. No error quotes what
// is in the document, encrypted or not.
func (d *Decryptor) open(ctx context.Context, text []byte, in, out format, verify bool) (plain []byte, err error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("it is larger than the %d bytes that an encrypted file may have", maxBytes)
	}
	tree, err := load(text, in)
	if err != nil {
		return nil, err
	}
	if err := bound(&tree.Metadata); err != nil {
		return nil, err
	}
	key, err := d.dataKey(ctx, &tree.Metadata)
	if err != nil {
		return nil, err
	}
	defer recovered(&err, in)
	if err := d.openTree(&tree, key, verify); err != nil {
		return nil, err
	}
	if out == formatBinary && (in != formatJSON || !wrapped(tree.Branches)) {
		out = in // no name says otherwise, and it is not one value
	}
	plain, err = out.store().EmitPlainFile(tree.Branches)
	if err != nil {
		return nil, fmt.Errorf("what was encrypted as %s cannot be written as %s", in, out)
	}
	return plain, nil
}

// load reads a document. errNoDocument means that it is not encrypted.
func load(text []byte, in format) (tree sops.Tree, err error) {
	if err := check(text, in); err != nil {
		return sops.Tree{}, err
	}
	defer recovered(&err, in)
	tree, err = in.store().LoadEncryptedFile(text)
	if errors.Is(err, sops.MetadataNotFound) {
		return sops.Tree{}, errNoDocument
	}
	if err != nil {
		return sops.Tree{}, fmt.Errorf("it cannot be read as an encrypted %s file", in)
	}
	return tree, nil
}

// recovered makes an error of a panic of sops, which happens on documents that were made to. What it says could quote them.
func recovered(err *error, in format) {
	if recover() != nil {
		*err = fmt.Errorf("it cannot be read as an encrypted %s file", in)
	}
}

// check refuses what would bring a parser down before it could say anything: references in YAML that sops would follow, if
// need be for ever, and nesting without end. sops itself writes neither.
func check(text []byte, in format) error {
	switch in {
	case formatJSON, formatBinary:
		if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			return errNoDocument
		}
		if !json.Valid(text) {
			return errors.New("it is not valid JSON")
		}
	case formatYAML:
		if !metadata.Match(text) {
			return errNoDocument
		}
		decoder := yamlv3.NewDecoder(bytes.NewReader(text))
		for {
			var node yamlv3.Node
			err := decoder.Decode(&node)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return errors.New("it is not valid YAML")
			}
			if refers(&node) {
				return errors.New("it has a YAML alias, which encrypted files cannot have")
			}
		}
	case formatDotenv, formatINI: // are flat
	}
	return nil
}

// metadata matches where the metadata of an encrypted YAML document begins.
var metadata = regexp.MustCompile(`(?m)^["']?sops["']?:`)

func refers(node *yamlv3.Node) bool {
	if node.Kind == yamlv3.AliasNode {
		return true
	}
	for _, child := range node.Content {
		if refers(child) {
			return true
		}
	}
	return false
}

// bound refuses metadata that would cost more than any honest document does.
func bound(m *sops.Metadata) error {
	if len(m.KeyGroups) > maxGroups || m.MasterKeyCount() > maxKeys {
		return fmt.Errorf("it is encrypted for more than %d keys or %d groups of keys", maxKeys, maxGroups)
	}
	for _, group := range m.KeyGroups {
		for _, key := range group {
			if len(key.EncryptedDataKey()) > maxEncrypted {
				return errors.New("a data key in its metadata is too large")
			}
		}
	}
	for _, pattern := range []string{m.EncryptedRegex, m.UnencryptedRegex, m.EncryptedCommentRegex, m.UnencryptedCommentRegex} {
		if len(pattern) > maxPattern {
			return fmt.Errorf("a pattern in its metadata is longer than %d bytes", maxPattern)
		}
	}
	return nil
}

// wrapped reports whether a document is a value that sops has made a document of.
func wrapped(branches sops.TreeBranches) bool {
	if len(branches) != 1 || len(branches[0]) != 1 || branches[0][0].Key != "data" {
		return false
	}
	_, text := branches[0][0].Value.(string)
	return text
}

// dataKey returns the key that a document's values are encrypted with. It is asked for once a build: the documents of a
// repository mostly have different ones, while a document is opened to be verified and once more for each object in it.
func (d *Decryptor) dataKey(ctx context.Context, m *sops.Metadata) ([]byte, error) {
	sum := sha256.New()
	writePart(sum, fmt.Sprint(m.ShamirThreshold, len(m.KeyGroups)))
	for _, group := range m.KeyGroups {
		writePart(sum, fmt.Sprint(len(group)))
		for _, key := range group {
			writePart(sum, key.TypeToIdentifier())
			writePart(sum, key.ToString())
			writePart(sum, string(key.EncryptedDataKey()))
		}
	}
	id := hex.EncodeToString(sum.Sum(nil))
	if key, known := d.dataKeys[id]; known {
		return key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	asked := &service{ctx: ctx, keys: d.keys}
	key, err := m.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{asked}, sops.DefaultDecryptionOrder)
	if err != nil {
		return nil, asked.failure()
	}
	d.dataKeys[id] = key
	return key, nil
}

// openTree decrypts the values of a document in place.
func (d *Decryptor) openTree(tree *sops.Tree, key []byte, verify bool) error {
	values := &cipher{Cipher: aes.NewCipher(), opened: d.remember}
	mac, err := tree.Decrypt(key, values)
	switch {
	case err != nil && values.failed != "":
		return fmt.Errorf("the value of %s is not encrypted, or not with the data key of this file", values.failed)
	case err != nil:
		return errors.New("a value that should be encrypted is not") // sops' text could quote it
	case !verify:
		return nil
	}
	wanted, err := aes.NewCipher().Decrypt(tree.Metadata.MessageAuthenticationCode, key, tree.Metadata.LastModified.Format(time.RFC3339))
	text, ok := wanted.(string)
	if err != nil || !ok || subtle.ConstantTimeCompare([]byte(text), []byte(mac)) != 1 {
		return errMAC
	}
	return nil
}

// cipher tells of every value that it opens, and keeps the place of the last that it could not: errors of sops quote the
// value, which somebody may have forgotten to encrypt.
type cipher struct {
	sops.Cipher
	opened func(any)
	failed string
}

func (c *cipher) Decrypt(ciphertext string, key []byte, place string) (any, error) {
	value, err := c.Cipher.Decrypt(ciphertext, key, place)
	if err != nil {
		// It may be a comment, which sops then takes for one that was not encrypted, and goes on.
		c.failed = strings.ReplaceAll(strings.TrimSuffix(place, ":"), ":", ".")
		return nil, errNotEncrypted
	}
	c.failed = ""
	c.opened(value)
	return value, nil
}
