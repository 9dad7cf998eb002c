package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RecordError says that a record is there but cannot be used.
type RecordError struct {
	Path string
	Err  error
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("the record of an earlier run, %s, cannot be used: %v; undo by hand what it lists "+
		"(policy rules, sysctls, reserved ports), then remove the file", e.Path, e.Err)
}

func (e *RecordError) Unwrap() error { return e.Err }

// NamespaceError says that a record speaks of another network namespace, where alone it can be undone.
type NamespaceError struct {
	Path              string
	Recorded, Current Namespace
}

func (e *NamespaceError) Error() string {
	return fmt.Sprintf("%s records changes made in another network namespace (net:[%d], this is net:[%d]): run \"innertun down\" there, "+
		"or remove the file if that namespace is gone, and give every namespace a control socket of its own",
		e.Path, e.Recorded.Inode, e.Current.Inode)
}

func recordPath(control string) string { return control + ".record" }
func lockPath(control string) string   { return control + ".lock" }

// loadRecord reads the record at path; none is not an error.
func loadRecord(path string) (r Record, found bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, &RecordError{path, err}
	}
	defer f.Close()
	if err := checkOwner(f); err != nil {
		return Record{}, false, &RecordError{path, err}
	}
	b := make([]byte, maxRecord+1)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if err != nil || m == 0 {
			break
		}
	}
	r, err = ParseRecord(b[:n])
	if err != nil {
		return Record{}, false, &RecordError{path, err}
	}
	return r, true, nil
}

// checkOwner refuses a record that someone else may have written: undoing it writes sysctls with our privileges.
func checkOwner(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	var statErr error
	if err := conn.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }); err != nil {
		return err
	}
	switch {
	case statErr != nil:
		return statErr
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, not to %d who runs this", st.Uid, os.Geteuid())
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write it (mode %#o)", st.Mode&0o777)
	}
	return nil
}

// storeRecord replaces the record at path so that a crash at any moment leaves the old one or the new one, whole.
func storeRecord(path string, r Record) error {
	b, err := AppendRecord(nil, r)
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write record: %w", err)
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write record: %w", err), removeIfThere(next))
	}
	return nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeDirectories makes dir and what lacks above it, and returns those it made, outermost first.
func makeDirectories(dir string) ([]string, error) {
	if _, err := os.Stat(dir); err == nil {
		return nil, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("folder of the control socket: %w", err)
	}
	made, err := makeDirectories(filepath.Dir(dir))
	if err != nil {
		return made, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return made, fmt.Errorf("folder of the control socket: %w", err)
	}
	return append(made, dir), nil
}

// removeDirectories removes those that are empty; others are in use and stay.
func removeDirectories(dirs []string) {
	for i := len(dirs) - 1; i >= 0; i-- {
		if unix.Rmdir(dirs[i]) != nil {
			return
		}
	}
}
