package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A key file is one PKCS #8 private key in PEM (RFC 7468, Section 10; RFC 8410, Section 7), so that openssl reads it.
const pemType = "PRIVATE KEY"

// maxKeyFile is what is read of a key file, in octets.
const maxKeyFile = 64 << 10

// Generate draws a key. random may be nil for crypto/rand.
func Generate(random io.Reader) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(random)
	return key, err
}

// CreateFile writes a key to a file that nobody but its owner can read (0600). It never overwrites: a key that is gone
// cannot be had back, and peers that know it would refuse this host. The folder is made if need be.
func CreateFile(name string, key ed25519.PrivateKey) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("identity: %s is there already and is not overwritten: peers may know this host by it; name another file, or move it away first: %w", name, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(name)
		return fmt.Errorf("identity: %w", err)
	}
	return nil
}

// LoadFile reads a key file. One that others can read, or that is not an Ed25519 key, is an error.
func LoadFile(name string) (ed25519.PrivateKey, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("identity: there is no key %s (%w): make one with innertun key gen -o %s", name, fs.ErrNotExist, name)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("identity: %s is no file", name)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("identity: others can get at the key %s (mode %04o): chmod 600 %s, and if they may have read it make another", name, mode, name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("identity: %s: %w", name, err)
	}
	defer clear(text)
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("identity: %s: %w", name, err)
	}
	return key, nil
}

// parseKey reads the contents of a key file.
func parseKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("no %q block of PEM in it: it is no key made by innertun key gen or openssl genpkey -algorithm ed25519", pemType)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("no PKCS #8 key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is a %T", ErrNotEd25519, parsed)
	}
	return key, nil
}
