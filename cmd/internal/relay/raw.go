package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// raw reads a kernel socket without holding a buffer while there is nothing to read. It serves one goroutine; its
// fields are the arguments and results of the functions it hands to the runtime's poller, made once for the life of a
// connection rather than once for every read.
type raw struct {
	conn     syscall.RawConn
	tryRead  func(fd uintptr) bool
	tryPeek  func(fd uintptr) bool
	pool     *sync.Pool
	buf      *[]byte
	n        int
	err      error
	peekRoom [1]byte
}

// rawReader returns nil if c is not a kernel stream socket.
func rawReader(c Conn) *raw {
	if !isKernel(c) {
		return nil
	}
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &raw{conn: rc}
	r.tryRead, r.tryPeek = r.readOnce, r.peekOnce
	return r
}

// read returns a buffer of the pool with the octets read into it; a nil buffer when there are none.
func (r *raw) read(pool *sync.Pool) (*[]byte, int, error) {
	r.pool = pool
	err := r.conn.Read(r.tryRead)
	buf := r.buf
	r.buf = nil
	if err != nil { // the deadline, or closed: before any try
		return nil, 0, err
	}
	return buf, max(r.n, 0), r.outcome("read")
}

func (r *raw) readOnce(fd uintptr) (done bool) {
	buf := r.pool.Get().(*[]byte)
	for {
		r.n, r.err = syscall.Read(int(fd), *buf)
		if r.err != syscall.EINTR {
			break
		}
	}
	if r.n > 0 {
		r.buf = buf
	} else {
		r.pool.Put(buf)
	}
	return r.err != syscall.EAGAIN
}

// wait returns nil as soon as a read would return octets, io.EOF at the end.
func (r *raw) wait() error {
	if err := r.conn.Read(r.tryPeek); err != nil {
		return err
	}
	return r.outcome("recvfrom")
}

func (r *raw) peekOnce(fd uintptr) (done bool) {
	for {
		r.n, _, r.err = syscall.Recvfrom(int(fd), r.peekRoom[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if r.err != syscall.EINTR {
			return r.err != syscall.EAGAIN
		}
	}
}

// outcome puts the result of a raw read in the shape of net.Conn's.
func (r *raw) outcome(call string) error {
	switch {
	case r.err != nil:
		return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError(call, r.err)}
	case r.n == 0:
		return io.EOF
	}
	return nil
}
