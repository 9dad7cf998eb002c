package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// raw reads a kernel socket without holding a buffer while there is nothing to read.
type raw struct{ conn syscall.RawConn }

// rawReader returns nil if c is not a kernel stream socket.
func rawReader(c Conn) *raw {
	if !isKernel(c) {
		return nil
	}
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	return &raw{rc}
}

// read returns a buffer of the pool with the octets read into it; a nil buffer when there are none.
func (r *raw) read(pool *sync.Pool) (*[]byte, int, error) {
	var buf *[]byte
	var n int
	var rerr error
	err := r.conn.Read(func(fd uintptr) bool {
		buf = pool.Get().(*[]byte)
		n, rerr = retry(func() (int, error) { return syscall.Read(int(fd), *buf) })
		if n <= 0 {
			pool.Put(buf)
			buf = nil
		}
		return rerr != syscall.EAGAIN
	})
	return buf, max(n, 0), outcome("read", n, err, rerr)
}

// wait returns nil as soon as a read would return octets, io.EOF at the end.
func (r *raw) wait() error {
	var n int
	var rerr error
	err := r.conn.Read(func(fd uintptr) bool {
		var one [1]byte
		n, rerr = retry(func() (int, error) {
			n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			return n, err
		})
		return rerr != syscall.EAGAIN
	})
	return outcome("recvfrom", n, err, rerr)
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// outcome puts the results of a raw read in the shape of net.Conn's.
func outcome(call string, n int, err, rerr error) error {
	switch {
	case err != nil: // the deadline, or closed
		return err
	case rerr != nil:
		return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError(call, rerr)}
	case n == 0:
		return io.EOF
	}
	return nil
}
