/*-------------------------------------------------------------------------
 *
 * caller_session.c
 *	  The session of a client that runs jobs, kept apart from theirs.
 *
 * A command is to find what it would find in a session of its own, and to
 * leave nothing to the next one.  A worker ends, or discards all; the session
 * of a client is not ours to discard.  So before a command its settings are
 * hidden: they become those of a session that begins.  After it they are what
 * they were, and the role is, too.  GUC nest levels would do that within one
 * transaction only, but a command has many.
 *
 * Temporary objects of a command are dropped if the session had none before.
 * What remains in the session until it ends: prepared statements, cursors WITH
 * HOLD, channels that are listened to, and advisory locks of the session.
 *
 * Settings change as in SET, with the transaction that is open.  All is done
 * in the rights of the caller's role, but without a test whether it may set
 * what it has set: what comes back was there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

#include "etl_patterns.h"
#include "worker/caller_session.h"

typedef struct Setting
{
	const char *name;
	const char *value;
} Setting;

static bool is_set(const struct config_generic *record);
static bool is_ours(const char *name);
static bool is_for_client(const char *name);
static char *setting_text(struct config_generic *record);
static const Setting *find_setting(const EtlCallerSession *session,
								   const char *name);
static void set(const char *name, const char *value);
static bool has_temp_objects(void);

/* What is to be restored later, in the current memory context. */
EtlCallerSession *
etl_caller_session_save(void)
{
	EtlCallerSession *session = palloc0(sizeof(EtlCallerSession));
	struct config_generic **records;
	int nrecords;

	session->where = CurrentMemoryContext;
	session->role = GetUserId();
	session->has_temp = has_temp_objects();
	records = etl_guc_variables(&nrecords);
	for (int i = 0; i < nrecords; i++)
	{
		Setting *setting;

		if (!is_set(records[i]))
			continue;
		setting = palloc(sizeof(Setting));
		setting->name = pstrdup(records[i]->name);
		setting->value = setting_text(records[i]);
		session->settings = lappend(session->settings, setting);
	}
	return session;
}

/*
 * Make the settings those of a session that begins.  Ours stay: they say how
 * jobs run, and a clock that was set for a test goes for commands, too.  So do
 * those that are between the server and its client, who is still the same.
 */
void
etl_caller_session_hide(const EtlCallerSession *session)
{
	ListCell *lc;

	foreach(lc, session->settings)
	{
		const Setting *setting = lfirst(lc);

		if (!is_ours(setting->name) && !is_for_client(setting->name))
			set(setting->name, NULL);
	}
}

/* Make role and settings what they were. */
void
etl_caller_session_restore(const EtlCallerSession *session)
{
	struct config_generic **records;
	int nrecords;
	ListCell *lc;

	if (GetSessionUserId() != session->role)
		set("session_authorization", NULL);
	if (GetUserId() != session->role)
		set("role", "none");
	if (GetUserId() != session->role)
		elog(ERROR, "could not return to the role %u", session->role);

	records = etl_guc_variables(&nrecords);
	for (int i = 0; i < nrecords; i++)
		if (is_set(records[i]) && find_setting(session, records[i]->name) == NULL)
			set(records[i]->name, NULL);
	foreach(lc, session->settings)
	{
		const Setting *setting = lfirst(lc);

		set(setting->name, setting->value);
	}
}

/* Could there be temporary objects of a command?  Needs no transaction. */
bool
etl_caller_session_may_drop_temp(const EtlCallerSession *session)
{
	Oid schema;
	Oid toast_schema;

	GetTempNamespaceState(&schema, &toast_schema);
	return OidIsValid(schema) && !session->has_temp;
}

/* Drop them, if the session had none when it was saved. */
void
etl_caller_session_drop_temp(const EtlCallerSession *session)
{
	if (!session->has_temp && has_temp_objects())
		ResetTempTableNamespace();
}

/* Did this session set it?  Not what SET keeps apart, such as the role. */
static bool
is_set(const struct config_generic *record)
{
	return record->source == PGC_S_SESSION &&
		   (record->context == PGC_USERSET || record->context == PGC_SUSET) &&
		   (record->flags & GUC_NO_RESET_ALL) == 0;
}

static bool
is_ours(const char *name)
{
	return pg_strncasecmp(name, ETL_SCHEMA ".", strlen(ETL_SCHEMA ".")) == 0;
}

static bool
is_for_client(const char *name)
{
	return strcmp(name, "client_encoding") == 0 ||
		   strcmp(name, "client_min_messages") == 0;
}

/* The value as SET takes it, in the setting's own unit and with all digits. */
static char *
setting_text(struct config_generic *record)
{
	switch (record->vartype)
	{
		case PGC_BOOL:
			return pstrdup(*((struct config_bool *) record)->variable ? "on" :
																		"off");
		case PGC_INT:
			return psprintf("%d", *((struct config_int *) record)->variable);
		case PGC_REAL:
			return psprintf("%.17g", *((struct config_real *) record)->variable);
		case PGC_STRING:
		{
			const char *value = *((struct config_string *) record)->variable;

			return pstrdup(value == NULL ? "" : value);
		}
		case PGC_ENUM:
		{
			struct config_enum *conf = (struct config_enum *) record;

			return pstrdup(config_enum_lookup_by_value(conf, *conf->variable));
		}
	}
	elog(ERROR, "unknown type of the setting \"%s\"", record->name);
}

static const Setting *
find_setting(const EtlCallerSession *session, const char *name)
{
	ListCell *lc;

	foreach(lc, session->settings)
	{
		const Setting *setting = lfirst(lc);

		if (strcmp(setting->name, name) == 0)
			return setting;
	}
	return NULL;
}

/* As SET does, or as RESET without a value. */
static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, WARNING, false);
}

/* Whatever is in a schema depends on it. */
static bool
has_temp_objects(void)
{
	Oid schema;
	Oid toast_schema;
	Relation rel;
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool found;

	GetTempNamespaceState(&schema, &toast_schema);
	if (!OidIsValid(schema))
		return false;
	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(schema));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}
