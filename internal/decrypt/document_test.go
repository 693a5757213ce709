package decrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/keys"
	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// TestFormats: a document of every format is found and opened by every kind of key that is a file.
func TestFormats(t *testing.T) {
	ageID, ageMaster := ageKeys(t)
	pgpKey, pgpMaster := pgpKeys(t, "")
	for _, key := range []struct {
		name, file, private string
		master              keys.MasterKey
	}{
		{"age", "one.agekey", "# a comment\n\n" + ageID + "\n", ageMaster},
		{"pgp", "one.asc", pgpKey, pgpMaster},
	} {
		for f, plain := range map[format]string{
			formatDotenv: "USER=admin\nPASSWORD=" + canary + "\n",
			formatINI:    "[db]\npassword = " + canary + "\n",
			formatJSON:   "{\n\t\"n\": 12,\n\t\"password\": \"" + canary + "\"\n}",
			formatYAML:   "n: 12\npassword: " + canary + "\n---\nmore: [true, " + canary + "]\n",
			formatBinary: "any\x01thing\npassword = \"" + canary + "\"\n",
		} {
			t.Run(key.name+" "+string(f), func(t *testing.T) {
				text := encryptTo(t, plain, f, nil, key.master)
				if bytes.Contains(text, []byte(canary)) {
					t.Fatal("the test encrypts nothing")
				}
				in, encrypted := detect(text)
				if want := map[bool]format{true: formatJSON, false: f}[f == formatBinary]; !encrypted || in != want {
					t.Fatalf("detect = %q, %v; want %q", in, encrypted, want)
				}
				d := loadKeys(t, Options{}, map[string]string{key.file: key.private})
				got, err := d.open(t.Context(), text, in, f, true)
				if err != nil {
					t.Fatal(err)
				}
				tree, err := f.store().LoadPlainFile([]byte(plain))
				if err != nil {
					t.Fatal(err)
				}
				want, err := f.store().EmitPlainFile(tree) // as this store writes it
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(got)); diff != "" {
					t.Errorf("opened (-want +got):\n%s", diff)
				}
				masked := object.MaskError(errors.New("admission: "+canary), d.Sensitive()).Error()
				if strings.Contains(masked, canary) {
					t.Errorf("TestA29: an error about what was opened reads %q", masked)
				}
			})
		}
	}
}

// TestA33_Refused: what does not fit is refused, and no error holds a value or a key.
func TestA33_Refused(t *testing.T) {
	id, master := ageKeys(t)
	other, _ := ageKeys(t)
	pgpKey, _ := pgpKeys(t, "")
	doc := "a: " + canary + "\nb: two\n"
	good := string(encryptTo(t, doc, formatYAML, nil, master))
	partly := string(encryptTo(t, "a: "+canary+"\nb_unencrypted: two\n", formatYAML, nil, master))
	many := make([]keys.MasterKey, maxKeys+1)
	for i := range many {
		many[i] = master
	}
	for name, c := range map[string]struct {
		text string
		with map[string]string
		want string
	}{
		"another key":         {good, map[string]string{"x.agekey": other}, "no age identity that was given fits"},
		"a key of a kind":     {good, map[string]string{"x.asc": pgpKey}, "no such key was given"},
		"no key":              {good, nil, "no such key was given"},
		"value changed":       {strings.Replace(partly, "two", "three", 1), map[string]string{"x.agekey": id}, errMAC.Error()},
		"value removed":       {strings.Replace(partly, "b_unencrypted: two\n", "", 1), map[string]string{"x.agekey": id}, errMAC.Error()},
		"no MAC":              {macValue.ReplaceAllString(good, "mac: \"\""), map[string]string{"x.agekey": id}, errMAC.Error()},
		"value moved":         {strings.NewReplacer("\na: ", "\nc: ", "a: ", "c: ").Replace(good), map[string]string{"x.agekey": id}, "the value of c is not encrypted"},
		"value in the clear":  {"clear: " + canary + "\n" + good, map[string]string{"x.agekey": id}, "the value of clear is not encrypted"},
		"number in the clear": {"n: 1\n" + good, map[string]string{"x.agekey": id}, "should be encrypted is not"},
		"alias":               {"x: &x [1]\ny: *x\n" + good, map[string]string{"x.agekey": id}, "YAML alias"},
		"alias of itself":     {"x: &x [*x]\n" + good, map[string]string{"x.agekey": id}, "YAML alias"},
		"too many keys":       {string(encryptTo(t, doc, formatYAML, nil, many...)), map[string]string{"x.agekey": id}, "more than 64 keys"},
		"a long pattern": {string(encryptTo(t, doc, formatYAML, func(m *sops.Metadata) {
			m.UnencryptedSuffix, m.EncryptedRegex = "", strings.Repeat("(a|b)?", 1000)
		}, master)), map[string]string{"x.agekey": id}, "longer than 1024 bytes"},
		"too large": {good + "# " + strings.Repeat("x", maxBytes), map[string]string{"x.agekey": id}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			d := loadKeys(t, Options{}, c.with)
			_, err := d.open(t.Context(), []byte(c.text), formatYAML, formatYAML, true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("open = %v; want %q", err, c.want)
			}
			for _, told := range []string{canary, id, other, "SECRET-KEY", string(fixedKey)} {
				if strings.Contains(err.Error(), told) {
					t.Errorf("the error holds %q: %v", told, err)
				}
			}
			_, again := loadKeys(t, Options{}, c.with).open(t.Context(), []byte(c.text), formatYAML, formatYAML, true)
			if again == nil || again.Error() != err.Error() {
				t.Errorf("the same failure reads %q and then %q", err, again)
			}
		})
	}
}

// macValue matches the MAC of a YAML document.
var macValue = regexp.MustCompile(`mac: ENC\[[^\]]*\]`)

// TestIgnoreMAC: with the flag, a file that was changed after it was encrypted is opened, as Flux does.
func TestIgnoreMAC(t *testing.T) {
	id, master := ageKeys(t)
	text := bytes.Replace(encryptTo(t, "a: 1\nb_unencrypted: two\n", formatYAML, nil, master), []byte("two"), []byte("three"), 1)
	d := loadKeys(t, Options{IgnoreMAC: true}, map[string]string{"x.agekey": id})
	got, err := d.open(t.Context(), text, formatYAML, formatYAML, d.verify)
	if err != nil || string(got) != "a: 1\nb_unencrypted: three\n" {
		t.Errorf("open = %q, %v", got, err)
	}
}

// TestDeepJSON: nesting that would use up the stack is refused.
func TestDeepJSON(t *testing.T) {
	text := `{"sops":{"mac":"ENC["},"a":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + "}"
	d := loadKeys(t, Options{}, nil)
	if _, err := d.open(t.Context(), []byte(text), formatJSON, formatJSON, true); err == nil {
		t.Error("it was read")
	}
}

// TestMentioned: a text that only speaks of encrypted documents is none.
func TestMentioned(t *testing.T) {
	d := loadKeys(t, Options{}, nil)
	for _, text := range []string{
		"example: |\n  sops:\n    mac: ENC[AES256_GCM,data:x]\n",
		"see: x\n  mac: ENC[\n",
		"README\n\"mac\": \"ENC[\"\n",
		"{\"a\": {\"mac\": \"ENC[x]\"}}",
	} {
		in, looks := detect([]byte(text))
		if !looks {
			t.Fatalf("%q does not even look like one", text)
		}
		if _, err := d.open(t.Context(), []byte(text), in, in, true); !errors.Is(err, errNoDocument) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestKeyThatHangs: a server that does not answer is not waited for, whatever its client does.
func TestKeyThatHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, master := ageKeys(t)
	d := newDecryptor(&keyring{}, true)
	_, err := d.open(ctx, encryptTo(t, "a: b\n", formatYAML, nil, master), formatYAML, formatYAML, true)
	if err == nil {
		t.Fatal("it was opened")
	}
}

// TestFault: what may pass by itself is tried again soon, what waits for somebody is not.
func TestFault(t *testing.T) {
	for err, want := range map[error]api.Retry{
		errMAC: api.RetryInterval,
		fmt.Errorf("x: %w", &unavailableError{errors.New("away")}): api.RetryBackoff,
		context.DeadlineExceeded:                                   api.RetryBackoff,
	} {
		var f *api.Fault
		if !errors.As(faultOf(err, "decrypting x"), &f) || f.Retry != want {
			t.Errorf("%v is tried again: %+v", err, f)
		}
	}
}
