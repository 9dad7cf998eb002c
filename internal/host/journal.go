package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// ErrClosed is returned for a change asked of a journal that was closed.
var ErrClosed = errors.New("the record of host changes is closed")

// Config says where the record lies.
type Config struct {
	Control string       // path of the control socket; record and lock lie beside it
	Logger  *slog.Logger // nil: discard
}

// Journal makes changes to the host and undoes them. Its methods may be called from any goroutine, but every call must
// be made in the network namespace that [Open] was called in.
type Journal struct {
	log    *slog.Logger
	path   string
	mu     sync.Mutex
	lock   *lock // nil once closed
	record Record
	made   []*Change // as record.Undo, in the same order
}

// Change is one change that was made through a [Journal].
type Change struct {
	journal *Journal
	entry   Entry
	held    io.Closer // what a Hold opened
}

// Open locks the record beside the control socket, after undoing what a process that was killed has left in it. The
// folder is made if need be. Errors: [*LiveError], [*RecordError], [*NamespaceError].
func Open(cfg Config) (*Journal, error) {
	j, _, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := storeRecord(j.path, j.record); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// Clean undoes what a process that was killed has left in the record beside the control socket, and returns what that
// was. Errors: as [Open].
func Clean(cfg Config) ([]Entry, error) {
	if _, err := os.Stat(filepath.Dir(cfg.Control)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	j, undone, err := open(cfg)
	if err != nil {
		return nil, err
	}
	return undone, j.Close()
}

func open(cfg Config) (j *Journal, undone []Entry, err error) {
	control, err := filepath.Abs(cfg.Control)
	if err != nil || cfg.Control == "" {
		return nil, nil, fmt.Errorf("control socket %q: no usable path", cfg.Control)
	}
	namespace, err := CurrentNamespace()
	if err != nil {
		return nil, nil, err
	}
	l, dirs, err := lockBeside(control)
	if err != nil {
		return nil, nil, err
	}
	j = &Journal{log: logger(cfg.Logger), path: recordPath(control), lock: l}
	j.record = Record{Version: recordVersion, PID: os.Getpid(), Namespace: namespace, Directories: dirs}
	undone, err = j.recover()
	if err != nil {
		err = errors.Join(err, l.release())
		removeDirectories(dirs)
		return nil, nil, err
	}
	return j, undone, nil
}

// lockBeside tries again when the last holder removed the folder in between.
func lockBeside(control string) (l *lock, dirs []string, err error) {
	for range 5 {
		dirs, err = makeDirectories(filepath.Dir(control))
		if err != nil {
			return nil, nil, err
		}
		l, err = takeLock(lockPath(control), killGrace)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		removeDirectories(dirs)
		return nil, nil, err
	}
	return l, dirs, nil
}

// recover undoes the record found on disk, if there is one, and removes it. What fails to be undone stays in it.
func (j *Journal) recover() ([]Entry, error) {
	old, found, err := loadRecord(j.path)
	if err != nil || !found {
		return nil, err
	}
	j.record.Directories = append(old.Directories, j.record.Directories...)
	current := j.record.Namespace
	if old.Namespace.gone(current) {
		j.log.Warn("the network namespace of an earlier run is gone, and with it what that run changed", "record", j.path, "pid", old.PID)
		return nil, removeIfThere(j.path)
	}
	if old.Namespace != current {
		return nil, &NamespaceError{Path: j.path, Recorded: old.Namespace, Current: current}
	}
	j.log.Info("undoing what an earlier run left behind", "record", j.path, "pid", old.PID, "changes", len(old.Undo))
	var undone, left []Entry
	var errs error
	for _, e := range slices.Backward(old.Undo) {
		if err := e.undo(j.log); err != nil {
			errs = errors.Join(errs, err)
			left = append(left, e)
			continue
		}
		undone = append(undone, e)
	}
	if errs != nil {
		slices.Reverse(left)
		old.Undo = left
		return undone, errors.Join(fmt.Errorf("undo what an earlier run left behind (%s): %w", j.path, errs), storeRecord(j.path, old))
	}
	return undone, removeIfThere(j.path)
}

// do records e, then makes the change; one that fails is taken out of the record again.
func (j *Journal) do(e Entry, change func() (io.Closer, error)) (*Change, error) {
	if err := j.usable(); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	c := &Change{journal: j, entry: e}
	j.made = append(j.made, c)
	j.record.Undo = append(j.record.Undo, e)
	err := storeRecord(j.path, j.record)
	if err == nil {
		c.held, err = change()
	}
	if err != nil {
		j.made = j.made[:len(j.made)-1]
		j.record.Undo = j.record.Undo[:len(j.record.Undo)-1]
		return nil, errors.Join(err, storeRecord(j.path, j.record))
	}
	j.log.Debug("changed the host", "kind", e.Kind, "name", e.Name)
	return c, nil
}

// usable is called with mu held.
func (j *Journal) usable() error {
	if j.lock == nil {
		return ErrClosed
	}
	return j.here()
}

func (j *Journal) here() error {
	now, err := CurrentNamespace()
	if err == nil && now != j.record.Namespace {
		err = &NamespaceError{Path: j.path, Recorded: j.record.Namespace, Current: now}
	}
	return err
}

// Undo takes the change back before the journal is closed. A second call does nothing.
func (c *Change) Undo() error {
	j := c.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.Index(j.made, c)
	if i < 0 {
		return nil
	}
	if err := j.usable(); err != nil {
		return err
	}
	if err := c.undo(j.log); err != nil {
		return err
	}
	j.made = slices.Delete(j.made, i, i+1)
	j.record.Undo = slices.Delete(j.record.Undo, i, i+1)
	return storeRecord(j.path, j.record)
}

func (c *Change) undo(log *slog.Logger) error {
	var err error
	if c.held != nil {
		err = c.held.Close()
		c.held = nil
	}
	return errors.Join(err, c.entry.undo(log))
}

// Close undoes every change, the last one first, then removes the record and lets go of the lock. Changes that could not
// be undone stay in the record for a later [Clean]. A second call does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lock == nil {
		return nil
	}
	if err := j.here(); err != nil {
		return err
	}
	var errs error
	var left []Entry
	for _, c := range slices.Backward(j.made) {
		if err := c.undo(j.log); err != nil {
			errs = errors.Join(errs, err)
			left = append(left, c.entry)
		}
	}
	slices.Reverse(left)
	j.made, j.record.Undo = nil, left
	if len(left) == 0 {
		errs = errors.Join(errs, removeIfThere(j.path))
	} else {
		errs = errors.Join(errs, storeRecord(j.path, j.record))
	}
	errs = errors.Join(errs, j.lock.release())
	j.lock = nil
	if len(left) == 0 {
		removeDirectories(j.record.Directories)
	}
	return errs
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
