#include "postgres.h"

#include "source/wal.h"

void
etl_wal_read_local(EtlWalControl *control, EtlChangeWriter *writer, List *tables)
{
	elog(ERROR, "not there yet");
}

void
etl_wal_check_local(void)
{
}

void
etl_wal_drop_local_slot(const char *slot_name)
{
}
