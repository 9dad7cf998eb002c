package identity

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// MaxKnown bounds the peers of a file.
const MaxKnown = 65536

// lockWait is how long a change of the file waits for another process that is changing it.
const lockWait = 10 * time.Second

// Known is a file of the keys that peers were met with, in the style of OpenSSH's known_hosts. A line is a destination, a
// public key and when it was written down:
//
//	198.18.0.2:80 ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE= 2026-01-31T12:00:00Z
//
// Lines that begin with # are kept, at the top. Each change replaces the file at once and whole, under a lock that other processes
// heed (FILE.lock), and a change by others is noticed. Known is safe for concurrent use.
type Known struct {
	name string
	now  func() time.Time
	wait time.Duration // lockWait

	mu   sync.Mutex
	seen os.FileInfo // the file as it was read; nil: there was none
	file knownFile
	read bool
}

// Entry is one peer of the file.
type Entry struct {
	Destination string // in the form of Destination()
	Key         PublicKey
	Added       time.Time // zero: not known
}

// ChangedError says that a peer proved another identity than the one it is known by.
type ChangedError struct {
	Destination string
	Old, New    PublicKey
	File        string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("the identity of %s has changed: %s has it as %v, and it proved to be %v. "+
		"Either its key was replaced or this is another host, perhaps in the middle. If the new key is right: innertun peers accept %s %v",
		e.Destination, e.File, e.Old, e.New, e.Destination, e.New)
}

// OpenKnown reads a file, which need not be there yet, and makes sure that it can be written. now may be nil for the real
// time.
func OpenKnown(name string, now func() time.Time) (*Known, error) {
	if now == nil {
		now = time.Now
	}
	k := &Known{name: name, now: now, wait: lockWait}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("known peers: %w", err)
	}
	return k, k.change(func(*knownFile) (bool, error) { return false, nil })
}

// Name is that of the file.
func (k *Known) Name() string { return k.name }

// Lookup returns the key a destination is known by. Errors: the file cannot be read or is not of this form.
func (k *Known) Lookup(destination string) (key PublicKey, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return PublicKey{}, false, err
	}
	e, ok := k.file.peers[destination]
	return e.Key, ok, nil
}

// Remember writes down the key of a destination that is not known yet; added tells whether it did. Error: *ChangedError if
// it is known by another key, whoever wrote that.
func (k *Known) Remember(destination string, key PublicKey) (added bool, err error) {
	err = k.change(func(f *knownFile) (bool, error) {
		if e, ok := f.peers[destination]; ok {
			if e.Key != key {
				return false, &ChangedError{Destination: destination, Old: e.Key, New: key, File: k.name}
			}
			return false, nil
		}
		added = true
		return true, f.put(Entry{destination, key, k.now()})
	})
	return added && err == nil, err
}

// Accept makes key the one that a destination is known by, and returns the one before, if there was one.
func (k *Known) Accept(destination string, key PublicKey) (old *PublicKey, err error) {
	err = k.change(func(f *knownFile) (bool, error) {
		if e, ok := f.peers[destination]; ok {
			old = &e.Key
			if e.Key == key {
				return false, nil
			}
		}
		return true, f.put(Entry{destination, key, k.now()})
	})
	return old, err
}

// Forget drops a destination, which the next connection to it may be first with again. It returns whether it was known.
func (k *Known) Forget(destination string) (known bool, err error) {
	err = k.change(func(f *knownFile) (bool, error) {
		_, known = f.peers[destination]
		delete(f.peers, destination)
		return known, nil
	})
	return known, err
}

// List returns all peers by destination.
func (k *Known) List() ([]Entry, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(); err != nil {
		return nil, err
	}
	return k.file.sorted(), nil
}

// refresh reads the file if it is another than the one that was read.
func (k *Known) refresh() error {
	info, err := os.Stat(k.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.seen, k.read, k.file = nil, true, knownFile{}
		return nil
	case err != nil:
		return fmt.Errorf("known peers: %w", err)
	case k.read && k.seen != nil && os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size():
		return nil
	}
	text, err := os.ReadFile(k.name)
	if err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	f, err := parseKnown(k.name, text)
	if err != nil {
		return err
	}
	k.seen, k.read, k.file = info, true, f
	return nil
}

// change lets edit alter what the file has now, and if it says so replaces the file.
func (k *Known) change(edit func(*knownFile) (changed bool, err error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	unlock, err := lock(k.name+".lock", k.wait)
	if err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	defer unlock()
	if err := k.refresh(); err != nil {
		return err
	}
	f := k.file.clone()
	changed, err := edit(&f)
	if err != nil || !changed {
		return err
	}
	if err := replace(k.name, f.text()); err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	k.read = false
	return k.refresh()
}

// lock takes a lock that other processes heed, and waits that long for it. The file stays: to remove it would let two of them hold one each.
func lock(name string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	const step = 10 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK), waited >= wait:
			f.Close()
			return nil, fmt.Errorf("%s is held by another process: %w", name, err)
		}
		time.Sleep(step)
	}
}

// replace writes a file beside name and moves it there, so that there is a whole one at any time.
func replace(name string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// knownFile is the contents of a file.
type knownFile struct {
	comments []string
	peers    map[string]Entry
}

func (f *knownFile) clone() knownFile {
	c := knownFile{comments: f.comments, peers: maps.Clone(f.peers)}
	if c.peers == nil {
		c.peers = make(map[string]Entry)
	}
	return c
}

func (f *knownFile) put(e Entry) error {
	if _, ok := f.peers[e.Destination]; !ok && len(f.peers) >= MaxKnown {
		return fmt.Errorf("known peers: %d are known and no more are taken: forget some", len(f.peers))
	}
	f.peers[e.Destination] = e
	return nil
}

func (f *knownFile) sorted() []Entry {
	return slices.SortedFunc(maps.Values(f.peers), func(a, b Entry) int { return cmp.Compare(a.Destination, b.Destination) })
}

func (f *knownFile) text() []byte {
	var b bytes.Buffer
	for _, c := range f.comments {
		b.WriteString(c + "\n")
	}
	for _, e := range f.sorted() {
		b.WriteString(e.Destination + " " + e.Key.String())
		if !e.Added.IsZero() {
			b.WriteString(" " + e.Added.UTC().Format(time.RFC3339))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
