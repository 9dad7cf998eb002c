package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(t *testing.T, seed byte) PublicKey {
	t.Helper()
	k, err := PublicOf(key(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPublicKeyText(t *testing.T) {
	k := public(t, 1)
	const want = "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
	if k.String() != want {
		t.Errorf("written as %v, want %v", k, want)
	}
	got, err := ParsePublicKey(want)
	if err != nil || got != k {
		t.Errorf("%v, %v", got, err)
	}
	text, err := k.MarshalText()
	if err != nil || got.UnmarshalText(text) != nil || got != k {
		t.Errorf("%s, %v", text, err)
	}
	for i := range len(want) {
		if _, err := ParsePublicKey(want[:i]); err == nil {
			t.Errorf("%q is taken", want[:i])
		}
	}
	for _, bad := range []string{
		"rsa:" + strings.TrimPrefix(want, "ed25519:"),
		want + "A", want + "\n", want[:len(want)-2] + "x=", // bits beyond the last octet
		"ed25519:iojj3XQJ8ZX9Uts\ntPLpdcspnCb8dlBIb83SIAbQPb1w=",
	} {
		if _, err := ParsePublicKey(bad); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestKeyFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "new", "identity.key")
	k, err := Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(name, k); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, err := LoadFile(name)
	if err != nil || !got.Equal(k) {
		t.Errorf("%v", err)
	}
	if err := CreateFile(name, key(1)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
	if got, err := LoadFile(name); err != nil || !got.Equal(k) {
		t.Errorf("overwritten, or %v", err)
	}
}

// openssl reads our keys, and we read openssl's.
func TestKeyFileOpenSSL(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	if err := CreateFile(ours, key(1)); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		ours:   {"pkey", "-in", ours, "-pubout", "-outform", "DER"},
		theirs: {"genpkey", "-algorithm", "ed25519", "-out", theirs},
	} {
		if _, err := os.Stat(name); err == nil {
			continue
		}
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
	}
	if err := os.Chmod(theirs, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ours, theirs} {
		k, err := LoadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		der, err := exec.Command("openssl", "pkey", "-in", name, "-pubout", "-outform", "DER").Output()
		if err != nil {
			t.Fatalf("openssl does not read %s: %v", name, err)
		}
		if want, err := x509.MarshalPKIXPublicKey(k.Public()); err != nil || !bytes.Equal(der, want) {
			t.Errorf("openssl says %x, we %x, %v", der, want, err)
		}
	}
}

func TestLoadFileErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	if err := CreateFile(good, key(1)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{filepath.Join(dir, "none"), "innertun key gen -o "},
		{dir, "is no file"},
		{write("readable", text, 0o640), "chmod 600"},
		{write("empty", nil, 0o600), "innertun key gen"},
		{write("cut", text[:len(text)/2], 0o600), "innertun key gen"},
		{write("public", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600), "innertun key gen"},
		{write("garbage", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0o600), "PKCS #8"},
		{write("ecdsa", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600), "not an Ed25519 key"},
	} {
		if _, err := LoadFile(c.name); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
	}
}
