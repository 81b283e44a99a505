#include "postgres.h"

#include "source/wal.h"

void
etl_wal_read_remote(EtlWalControl *control, EtlChangeWriter *writer,
					List *tables)
{
	elog(ERROR, "not there yet");
}

void
etl_wal_drop_remote_slot(const char *server, Oid role, const char *slot_name)
{
}
